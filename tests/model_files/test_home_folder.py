"""`~` where no shell writes it out: in the file of an adapter, in quotes, and after an equals sign."""

import json
from pathlib import Path

import pytest

from trl_ext.export import source
from trl_ext.model_files import adapter
from trl_ext.runs import finished


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Holds the adapter `run`, whose file names its base with `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    content = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "~/base"}
    (tmp_path / "run" / adapter.CONFIG).write_text(json.dumps(content))
    return tmp_path


def test_of_a_run_and_of_its_base(home):
    assert finished.directory_of(Path("~/run")) == home / "run"
    assert adapter.base_of(home / "run") == str(home / "base")
    (home / "base").mkdir()
    assert adapter.local_base(home / "run") == home / "base"
    assert adapter.base_name("~/run") == str(home / "base")


def test_of_the_base_to_merge_into(home):
    assert source.find(Path("~/run"), "~/other").base == str(home / "other")
    assert source.find(Path("~/run"), "org/other").base == "org/other"
