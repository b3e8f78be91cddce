"""What SIGTERM and SIGHUP do to a command that does not train, in processes that need no torch."""

import os
import signal
import subprocess
import sys

import pytest

START = """
import os, signal, sys, time
from trl_ext.support import termination
for number in (signal.SIGTERM, signal.SIGHUP):  # as a suite in the background may have them ignored
    signal.signal(number, signal.SIG_DFL)
"""
CLEANS = """
termination.end_as_on_ctrl_c()
try:
    print("ready", flush=True)
    time.sleep(900)
except KeyboardInterrupt as error:
    print(type(error).__name__, flush=True)
finally:
    print("cleaned", flush=True)
"""


@pytest.fixture
def started():
    processes = []

    def start(code: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_lets_the_command_clean_up(started, number):
    process = started(START + CLEANS)
    process.send_signal(number)
    assert process.communicate(timeout=300) == ("Interrupted\ncleaned\n", "")
    assert process.returncode == 0


def test_the_same_signal_sent_to_process_and_group_is_one(started):
    """`timeout` does that."""
    process = started(f"{START}termination.SAME = 300\n{CLEANS}    time.sleep(1)\n")
    process.send_signal(signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=300)[0] == "Interrupted\ncleaned\n" and process.returncode == 0


def test_a_later_signal_ends_the_process_at_once(started):
    process = started(f"{START}termination.SAME = 0\n{CLEANS}    time.sleep(900)\n")
    process.send_signal(signal.SIGTERM)
    assert [process.stdout.readline() for _ in range(2)] == ["Interrupted\n", "cleaned\n"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == -signal.SIGTERM


def test_what_is_ignored_stays_ignored(started):
    """As under `nohup`."""
    code = (
        f"{START}signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{CLEANS.replace('time.sleep(900)', 'print(input())')}"
    )
    process = started(code)
    process.send_signal(signal.SIGHUP)
    assert process.communicate("still here\n", timeout=300)[0] == "still here\ncleaned\n"


def test_a_forked_child_ends_without_a_traceback(started):
    """Pools of `datasets` end their workers by SIGTERM."""
    code = """
termination.end_as_on_ctrl_c()
child = os.fork()
if not child:
    print("ready", flush=True)
    time.sleep(900)
os.kill(child, signal.SIGTERM) if input() else None
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    out, errors = started(START + code).communicate("go\n", timeout=300)
    assert (out, errors) == (f"{-signal.SIGTERM}\n", "")
