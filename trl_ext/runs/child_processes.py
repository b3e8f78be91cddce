"""Child processes end with the command, however it ends.

Dataloader workers and the workers of a dataset's `map` are forked. Left to themselves they see a Ctrl-C or a `kill` of the
whole group before the command does, which then fails for want of its workers instead of finishing its step; and they go on
when the command is killed. So a forked child leaves the group, and the kernel kills it when its parent ends.
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
_parent: int | None = None  # who forks, where that is the main thread


def bind() -> None:
    """From here on tie forked children to this process. Linux only: elsewhere they stay as they are."""
    global _is_on, _is_registered
    _is_on = sys.platform == "linux"
    if _is_on and not _is_registered:
        _is_registered = True
        prctl = ctypes.CDLL(None).prctl  # found before the fork: a child of threads should do little
        os.register_at_fork(before=_before_fork, after_in_child=lambda: _after_fork(prctl))


def release() -> None:
    """From here on leave forked children alone."""
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
    # The kernel goes by the thread that forked: a child of one that ends early would be killed with it.
    global _parent
    from_main_thread = _is_on and threading.current_thread() is threading.main_thread()
    _parent = os.getpid() if from_main_thread else None


def _after_fork(prctl: "ctypes._NamedFuncPointer") -> None:
    if _parent is None:
        return
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != _parent:  # it ended before the kernel knew whom to kill
        os._exit(1)
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
