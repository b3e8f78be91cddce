"""What signals do to a process, in processes that need no torch; `test_interrupted_runs.py` has the whole runs."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from trl_ext.interruption import Guard, Interrupted


def test_outside_a_deferred_block_the_first_signal_raises():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="Nothing was trained yet"), Guard():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_inside_it_waits_for_the_end_of_the_block(number, capfd):
    reached = False
    with pytest.raises(Interrupted, match="kept"), Guard() as guard:
        guard.last_words = lambda: "kept"
        with guard.deferred():
            assert not guard.is_requested
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            reached = guard.is_requested
    assert reached
    assert f"{number.name}: the step in progress is finished and kept" in capfd.readouterr().err


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


def started(code: str, **environment: str) -> subprocess.Popen:
    """Python that runs `code` and says "ready"; its output is read from then on."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def gone(processes: list[psutil.Process], within: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


WORKER = """
import hashlib, multiprocessing, os, signal, time
from trl_ext.interruption import guard
def in_c():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # a call that signals do not interrupt
def work():
    print("ready", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    with guard, guard.deferred():
        guard.last_words = lambda: "Kept: nothing."
        multiprocessing.get_context("fork").Process(target=work).start()
        in_c()
"""


def test_a_second_signal_ends_even_a_call_that_never_returns():
    process = started(WORKER)
    children = psutil.Process(process.pid).children()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    assert process.wait(timeout=5) == 130
    assert "trl-ext: stopped at once. Kept: nothing." in process.stdout.read()
    assert children and gone(children, within=2)


def test_the_same_signal_sent_to_process_and_group_is_one():
    """`timeout` does that; children in the group of their own do not see it."""
    process = started(WORKER)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None and all(child.is_running() for child in children)
    process.kill()
    process.wait()


def test_children_do_not_outlive_a_killed_command():
    process = started(WORKER)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert children and gone(children, within=2)


def test_not_even_children_forked_in_the_moment_of_the_kill():
    slow = "import os, time\nos.register_at_fork(after_in_child=lambda: (print('ready', flush=True), time.sleep(2)))"
    process = started(slow + WORKER)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert children and not gone(children, within=0.2) and gone(children, within=10)


def test_a_process_whose_launcher_is_gone_is_asked_to_stop():
    """As by a first signal, so that it keeps what it has."""
    script = WORKER.replace("in_c()\n", "time.sleep(4)\n").removeprefix("\n")
    code = f"import subprocess, sys; subprocess.call([sys.executable, '-c', {script!r}])"
    launcher = started(code, TORCHELASTIC_RUN_ID="test")
    (process,) = psutil.Process(launcher.pid).children()
    launcher.kill()
    assert "SIGTERM: the step in progress is finished and kept" in launcher.stdout.read()
    assert gone([process], within=5)
