"""How a command ends that is interrupted, is killed, or meets a mistake of ours."""

import os
import signal
import subprocess
import sys

import pytest

from trl_ext import cli

PRINTS_AND_IS_KILLED = """
import os, signal
from trl_ext import cli

def run(args):
    print("42 trials are finished")
    os.kill(os.getpid(), signal.SIGKILL)

cli.losses.run = run
cli.main(["losses"])
"""


def test_ctrl_c(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.validate, "run", interrupted)
    assert cli.main(["validate", "x.yaml"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_sigterm_ends_a_command_as_ctrl_c_does():
    code = """
import signal, sys, time
from trl_ext import cli
def wait(args):
    try:
        print("ready", flush=True)
        time.sleep(900)
    finally:
        print("cleaned", flush=True)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
cli.validate.run = wait
sys.argv = ["trl-ext", "validate", "x.yaml"]
sys.exit(cli.main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=300) == ("cleaned\n", "\ntrl-ext: interrupted.\n")
    assert process.returncode == 130


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def broken(args):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.validate, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["validate", "x.yaml"])


def test_lines_are_in_the_pipe_before_a_command_is_killed():
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run([sys.executable, "-c", PRINTS_AND_IS_KILLED], env=usual, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "42 trials are finished\n"
