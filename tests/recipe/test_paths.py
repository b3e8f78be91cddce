"""Paths in recipes, which no shell has seen."""

from pathlib import Path

import pytest

from trl_ext.recipe import paths

from .helpers import load, problem


def test_the_home_folder_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = load(tmp_path, "output_dir: ~/runs/x\n")
    assert loaded.get("output_dir") == str(tmp_path / "runs" / "x")
    assert load(tmp_path, "", output_dir="~/y").get("output_dir") == str(tmp_path / "y")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a\\nb", "is 'a\\nb', with characters that no path or name has: check it."),
        ("\\0", "is '\\x00', with characters that no path or name has: check it."),
        ("x" * 256, "x…, which is longer than any path or name: check it."),
        ("x/" * 2048, "…, which is longer than any path or name: check it."),
        ("~nobody-here/x", "is ~nobody-here/x, and this computer has no such user: write the path in full."),
    ],
    ids=["newline", "null", "long name", "long path", "unknown user"],
)
def test_what_no_path_can_be(tmp_path, text, sentence):
    assert problem(tmp_path, f'output_dir: "{text}"\n').endswith(sentence)


def test_an_output_directory_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    sentence = problem(tmp_path, f"output_dir: {tmp_path}/a/b\n")
    assert sentence.endswith(f"and {tmp_path} cannot be written to: name another folder.")


def test_names_on_the_hub_are_no_paths():
    assert not any(map(paths.is_path, ("org/name", "gpt2", "org/name-1.5_b")))
    assert all(map(paths.is_path, ("./name", "~/name", "/org/name", "a/b/c", "a b")))
