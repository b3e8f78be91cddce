"""Paths in recipes, which no shell has seen."""

from pathlib import Path

import pytest

from tests.recipe.helpers import load, problem
from trl_ext.support import paths


def test_the_home_folder_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = load(tmp_path, "output_dir: ~/runs/x\n")
    assert loaded.get("output_dir") == str(tmp_path / "runs" / "x")
    assert load(tmp_path, "", output_dir="~/y").get("output_dir") == str(tmp_path / "y")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a\\nb", "is 'a\\nb', which has characters that no path or name can have: check it."),
        ("\\0", "is '\\x00', which has characters that no path or name can have: check it."),
        ("x" * 256, "x…, which is longer than any path or name: check it."),
        ("x/" * 2048, "…, which is longer than any path or name: check it."),
        ("~nobody-here/x", "is ~nobody-here/x, and this computer has no such user: write the full path."),
    ],
    ids=["newline", "null", "long name", "long path", "unknown user"],
)
def test_what_no_path_can_be(tmp_path, text, sentence):
    assert problem(tmp_path, f'output_dir: "{text}"\n').endswith(sentence)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system that takes no folders is needed")
def test_an_output_directory_that_cannot_be_written_to(tmp_path):
    """Not even by root, whom permissions allow everything."""
    sentence = problem(tmp_path, "output_dir: /proc/a/b\n")
    assert sentence.startswith("`output_dir` (line 3) is /proc/a/b, and /proc cannot be written to (")
    assert sentence.endswith("): name another folder.")


def test_looking_whether_a_folder_can_be_written_to_leaves_nothing(tmp_path):
    assert paths.unwritable(tmp_path / "a" / "b") is None and list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert paths.unwritable(tmp_path / "file" / "b").startswith(f"{tmp_path}/file is a file: name a folder")


def test_names_on_the_hub_are_no_paths():
    assert not any(map(paths.is_path, ("org/name", "gpt2", "org/name-1.5_b")))
    assert all(map(paths.is_path, ("./name", "~/name", "/org/name", "a/b/c", "a b")))
