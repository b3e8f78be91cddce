"""A file is the old one or the new one, whatever happens while it is written."""

import json
import multiprocessing
import os
import signal

import pytest

from trl_ext.support import atomic


def parts_that_fail():
    yield b"half of "
    raise OSError("No space left on device")


def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "state.json"
    atomic.write_text(file, "old")
    with pytest.raises(OSError, match="No space"):
        atomic.write(file, parts_that_fail())
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["state.json"]


def write_until_killed(path):
    def parts():
        yield b"x" * 2**20
        os.kill(os.getpid(), signal.SIGKILL)
        yield b"never"

    atomic.write(path, parts())


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    file = tmp_path / "state.json"
    atomic.write_text(file, "old")
    child = multiprocessing.get_context("fork").Process(target=write_until_killed, args=(file,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and file.read_text() == "old"


def test_json_makes_its_folder_and_is_read_back_as_it_was(tmp_path):
    content = {"prompt": "日本語 “ok”", "losses": [0.6931, None], "nested": {"is_whole": True}}
    file = tmp_path / "new" / "facts.json"
    atomic.write_json(file, content)
    assert json.loads(file.read_text(encoding="utf-8")) == content and "日本語" in file.read_text(encoding="utf-8")
