"""What a command has printed is not lost when it is killed."""

import os
import signal
import subprocess
import sys

PRINTS_AND_IS_KILLED = """
import os, signal
from trl_ext import cli

def run(args):
    print("42 trials are finished")
    os.kill(os.getpid(), signal.SIGKILL)

cli.losses.run = run
cli.main(["losses"])
"""


def test_lines_are_in_the_pipe_before_a_command_is_killed():
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run([sys.executable, "-c", PRINTS_AND_IS_KILLED], env=usual, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "42 trials are finished\n"
