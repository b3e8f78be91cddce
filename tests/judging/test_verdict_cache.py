"""Verdicts on disk: torn lines, two processes, what is in a key, and what is kept."""

import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from trl_ext.judging.judge import Verdict
from trl_ext.judging.verdict_cache import LONGEST, Reply, VerdictCache, default_directory
from trl_ext.support.errors import UserError

WRITER = """
import os, sys
from trl_ext.judging.judge import Verdict
from trl_ext.judging.verdict_cache import Reply, VerdictCache
cache = VerdictCache("j", {"model": "m"}, sys.argv[1])
for i in range(int(sys.argv[3])):
    cache.put(f"{sys.argv[2]} {i}", Reply(Verdict.FIRST, "w" * 300, i, 1))
print("written", flush=True)
if len(sys.argv) > 4:
    sys.stdin.read()
"""


def cache(folder, **identity) -> VerdictCache:
    return VerdictCache("j", {"model": "m", **identity}, folder)


def test_a_reply_is_found_again_by_another_instance(tmp_path):
    reply = Reply(Verdict.SECOND, "It is.\n[[SECOND]]", 7, None, True)
    cache(tmp_path).put("text", reply)
    assert cache(tmp_path).get("text") == reply
    assert cache(tmp_path).get("text ") is None


def test_the_identity_of_the_judge_is_part_of_the_key(tmp_path):
    cache(tmp_path, temperature=0.0).put("text", Reply(Verdict.TIE))
    assert cache(tmp_path, temperature=0.0).get("text")
    assert cache(tmp_path, temperature=1.0).get("text") is None
    assert VerdictCache("j", {"model": "n", "temperature": 0.0}, tmp_path).get("text") is None


def test_long_words_lose_their_middle_and_the_text_is_not_kept(tmp_path):
    words = "begin" + "x" * 5000 + "[[TIE]]"
    cache(tmp_path).put("a private prompt", Reply(Verdict.TIE, words))
    kept = cache(tmp_path).get("a private prompt").words
    assert len(kept) <= LONGEST + 5 and kept.startswith("begin") and kept.endswith("[[TIE]]")
    assert "private" not in cache(tmp_path).path.read_text()


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_line_costs_only_its_own_verdict(tmp_path, cut):
    first = cache(tmp_path)
    first.put("a", Reply(Verdict.FIRST))
    first.put("b", Reply(Verdict.SECOND))
    first.path.write_bytes(first.path.read_bytes()[:-cut])
    later = cache(tmp_path)
    later.put("c", Reply(Verdict.TIE))
    again = cache(tmp_path)
    assert again.get("a").verdict is Verdict.FIRST and again.get("c").verdict is Verdict.TIE
    assert (again.get("b") is None) == (cut > 1)  # the last byte is the line break


@pytest.mark.parametrize(
    "line",
    [b"[]", b"null", b"\xff", b"{}", b'{"key": 1, "verdict": "first", "words": "", "prompt_tokens": 1}', b"{" * 5000],
)
def test_foreign_lines_are_skipped(tmp_path, line):
    first = cache(tmp_path)
    first.put("a", Reply(Verdict.FIRST))
    with open(first.path, "ab") as file:
        file.write(line + b"\n")
    assert cache(tmp_path).get("a") == Reply(Verdict.FIRST)


@pytest.mark.parametrize("change", [{"verdict": "third"}, {"prompt_tokens": -1}, {"words": None}, {"was_cut": "no"}])
def test_a_line_with_a_wrong_value_is_a_miss(tmp_path, change):
    first = cache(tmp_path)
    first.put("a", Reply(Verdict.FIRST))
    first.path.write_text(json.dumps({**json.loads(first.path.read_text()), **change}) + "\n")
    assert cache(tmp_path).get("a") is None


def test_an_instance_finds_what_another_process_adds(tmp_path):
    waiting = cache(tmp_path)
    assert waiting.get("x 0") is None
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), "x", "1"], check=True, capture_output=True)
    assert waiting.get("x 0").prompt_tokens == 0


def test_two_processes_write_at_once_and_one_is_killed(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [subprocess.Popen([*command, name, "60", "wait"], **pipes) for name in "xy"]
    for writer in writers:
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    found = cache(tmp_path)
    assert [found.get(f"{name} {i}").prompt_tokens for name in "xy" for i in range(60)] == [*range(60), *range(60)]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_paid(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Verdicts cannot be kept in .*file.* Set TRL_EXT_CACHE to a folder"):
        cache(tmp_path / "file").prepare()


def test_a_full_disk_is_reported_once_and_the_verdicts_are_still_known(tmp_path, monkeypatch, caplog):
    full = cache(tmp_path)
    monkeypatch.setattr(os, "write", lambda descriptor, line: 10)
    with caplog.at_level(logging.WARNING):
        full.put("a", Reply(Verdict.FIRST))
        full.put("b", Reply(Verdict.TIE))
    assert len(caplog.records) == 1 and "the disk is full" in caplog.text
    assert full.get("b").verdict is Verdict.TIE


def test_the_folder_is_in_the_cache_of_trl_ext(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path))
    assert default_directory() == tmp_path / "verdicts"
    monkeypatch.delenv("TRL_EXT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "trl-ext" / "verdicts"
