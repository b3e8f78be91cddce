"""What signals do to a process, in processes that need no torch; `test_interrupted_runs.py` has the whole runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from trl_ext.runs.signals import SIGNALS, Guard, Interrupted


@pytest.fixture(autouse=True)
def heeded_signals():
    """What is started in the background or under `nohup`, as this suite may be, ignores some, and so would its children."""
    ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def becomes(is_so: Callable[[], bool], within: float = 300) -> bool:
    """Whether something happens at all: a loaded machine may take long for it."""
    end = time.monotonic() + within
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_outside_a_deferred_block_the_first_signal_raises():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="Nothing was trained yet"), Guard():
        os.kill(os.getpid(), signal.SIGTERM)
        becomes(lambda: False)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_inside_it_waits_for_the_end_of_the_block(number, capfd):
    reached = False
    with pytest.raises(Interrupted, match="kept"), Guard() as guard:
        guard.last_words = lambda: "kept"
        with guard.deferred():
            assert not guard.is_requested
            os.kill(os.getpid(), number)
            reached = becomes(lambda: guard.is_requested)
    assert reached
    assert f"{number.name}: finishing this step and saving a checkpoint" in capfd.readouterr().err


def test_what_is_ignored_stays_ignored():
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Guard() as guard:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert not guard.is_requested
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def start():
    """Starts Python that runs `code` and says "ready"; whatever of it still runs at the end of the test is killed."""
    started = []

    def one(code: str, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        started.extend(psutil.Process(process.pid).children(recursive=True))
        return process

    yield one
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for process in started:
        if isinstance(process, subprocess.Popen):
            process.communicate()


def ended_by(number: int, process: subprocess.Popen) -> int | None:
    """Its exit code, after as many signals as it takes: what comes too soon after the first counts as the same."""

    def is_ended() -> bool:
        process.send_signal(number)
        time.sleep(0.5)
        return process.poll() is not None

    becomes(is_ended)
    return process.returncode


def gone(processes: list[psutil.Process]) -> bool:
    """Zombies count: in a container, nobody may be there to collect them."""
    return becomes(lambda: not any(map(is_alive, processes)))


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


WORKER = """
import hashlib, multiprocessing, os, signal, time
from trl_ext.runs.signals import guard
def in_c():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # a call that signals do not interrupt
def work():
    print("ready", flush=True)
    time.sleep(900)
if __name__ == "__main__":
    with guard, guard.deferred():
        guard.last_words = lambda: "Kept: nothing."
        multiprocessing.get_context("fork").Process(target=work).start()
        in_c()
"""


def test_a_second_signal_ends_even_a_call_that_never_returns(start):
    process = start(WORKER)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    assert ended_by(signal.SIGINT, process) == 130
    assert "trl-ext: stopped immediately. Kept: nothing." in process.stdout.read()
    assert children and gone(children)


def test_the_same_signal_sent_to_process_and_group_is_one(start):
    """`timeout` does that; children in the group of their own do not see it."""
    process = start(
        f"from trl_ext.runs import signals\nsignals.SAME = 30\n{WORKER}"
    )  # a busy machine may send them apart
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None and all(map(is_alive, children))


def test_children_do_not_outlive_a_killed_command(start):
    process = start(WORKER)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert children and gone(children)


def test_not_even_children_forked_in_the_moment_of_the_kill(start):
    process = start(SLOW_FORK + WORKER)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert children and gone(children)


SLOW_FORK = """
import os, time
parent = os.getpid()
def wait():
    print("ready", flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)
os.register_at_fork(after_in_child=wait)
"""


def test_a_process_whose_launcher_is_gone_is_asked_to_stop(start):
    """As by a first signal, so that it keeps what it has."""
    step = "while not guard.is_requested: time.sleep(0.01)\n"
    script = WORKER.replace("in_c()\n", step).removeprefix("\n")
    code = f"import subprocess, sys; subprocess.call([sys.executable, '-c', {script!r}])"
    launcher = start(code, TORCHELASTIC_RUN_ID="test")
    (process,) = psutil.Process(launcher.pid).children()
    launcher.kill()
    assert gone([process])
    assert "SIGTERM: finishing this step and saving a checkpoint" in launcher.stdout.read()
