"""`trl-ext cache`: looks, clears, and loads nothing heavy."""

import json
import subprocess
import sys

import numpy as np
import pytest

from trl_ext.cli import cache as verb
from trl_ext.cli.parser import Parser
from trl_ext.reference import folder
from trl_ext.reference.cache import ReferenceCache
from trl_ext.support.errors import UserError


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def fill(identity: str, rows: int, about: str = "") -> None:
    with ReferenceCache(identity, about=about) as cache:
        cache.put([cache.key([i], [i]) for i in range(rows)], [np.zeros(3)] * rows)


def run(*words: str) -> int:
    parser = Parser(prog="trl-ext cache")
    verb.add_arguments(parser)
    return verb.run(parser.parse_args(list(words)))


def test_empty(directory, capsys):
    assert run() == 0
    assert capsys.readouterr().out == f"Nothing is cached in {directory}.\n"


def test_entries_are_listed(directory, capsys):
    fill("3f9a" + "0" * 28, 1234, "Qwen3-8B, nf4, bfloat16")
    fill("77aa" + "0" * 28, 2)
    assert run() == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    (line,) = [line for line in lines if line.startswith(" 3f9a00000000 ")]
    for shown in ("Qwen3-8B, nf4, bfloat16", " 1,234 ", "53.1 KiB", "just now"):
        assert shown in line
    assert any(line.split()[:2] == ["77aa00000000", "unknown"] for line in lines)
    assert max(map(len, lines[:-1])) <= 80 and str(directory) in lines[-1]


def test_clear_everything(capsys):
    fill("aa", 3)
    fill("bb", 3)
    assert run("--clear") == 0
    assert folder.entries() == []
    assert capsys.readouterr().out.startswith("Removed ")


def test_clear_one_by_its_beginning():
    for identity in ("abc1", "abd2", "abd"):
        fill(identity, 3)
    assert run("--clear", "abc") == 0
    assert {entry.identity for entry in folder.entries()} == {"abd2", "abd"}
    assert run("--clear", "abd") == 0  # whole, though it begins another
    assert {entry.identity for entry in folder.entries()} == {"abd2"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("ab", "'ab' matches 2 entries: "), ("x", "No entry has an identity")],
)
def test_clear_what_is_not_one_entry(given, sentence):
    fill("abc1", 3)
    fill("abd2", 3)
    with pytest.raises(UserError, match=sentence) as caught:
        run("--clear", given)
    assert "abc1" in str(caught.value) and "abd2" in str(caught.value)
    assert len(folder.entries()) == 2


def test_clear_where_nothing_is():
    with pytest.raises(UserError, match="The cache is empty"):
        run("--clear", "ab")
    assert run("--clear") == 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 2**20, "1.5 GiB")]
)
def test_sizes(count, text):
    assert verb.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (86400, "1 day ago")]
)
def test_times(seconds, text):
    assert verb.ago(seconds) == text


def test_nothing_heavy_is_imported():
    fill("aa", 3)
    heavy = ["datasets", "numpy", "peft", "torch", "transformers", "trl"]
    code = (
        "import argparse, json, sys; from trl_ext.cli import cache;"
        "cache.run(argparse.Namespace(clear=None));"
        f"print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "aa" in done.stdout and json.loads(done.stdout.splitlines()[-1]) == []
