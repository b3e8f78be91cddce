"""End child processes together with the command.

Dataloader workers and the workers of a dataset's `map` are forked. By default a Ctrl-C or a `kill` of the process group reaches
them before the command, which then fails because its workers are gone instead of finishing its step; and they keep running
when the command is killed. A forked child therefore leaves the group, and the kernel kills it when its parent ends.
"""

import ctypes
import os
import signal
import sys
import threading

import psutil

SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

_is_on = False
_is_registered = False
_parent: int | None = None  # the process that forks, if its main thread does


def bind() -> None:
    """Tie children that are forked from now on to this process. Linux only; no effect elsewhere."""
    global _is_on, _is_registered
    _is_on = sys.platform == "linux"
    if _is_on and not _is_registered:
        _is_registered = True
        prctl = ctypes.CDLL(None).prctl  # found before the fork: a child of threads should do little
        os.register_at_fork(before=_before_fork, after_in_child=lambda: _after_fork(prctl))


def release() -> None:
    """Leave children that are forked from now on alone."""
    global _is_on
    _is_on = False


def kill() -> None:
    """Kill every descendant of this process."""
    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _before_fork() -> None:
    # The kernel watches the thread that forked: a child of a thread that ends early would be killed with it.
    global _parent
    from_main_thread = _is_on and threading.current_thread() is threading.main_thread()
    _parent = os.getpid() if from_main_thread else None


def _after_fork(prctl: "ctypes._NamedFuncPointer") -> None:
    if _parent is None:
        return
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != _parent:  # it ended before the death signal was set
        os._exit(1)
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
