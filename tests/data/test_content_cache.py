"""Files that were replaced are read again, whatever their time stamps: the cache of `datasets` is kept by content."""

import json
import os
import shutil
from types import SimpleNamespace

import datasets
import pytest
import yaml

from trl_ext import data, recipe
from trl_ext.build import dataset

STAMP = (1_000_000_000, 1_000_000_000)


def rows(word):
    return [{"prompt": "q", "chosen": word, "rejected": f"bad {i}"} for i in range(3)]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.csv.zst", "folder/train.jsonl.gz"]
)
@pytest.mark.parametrize("stamp", [STAMP, None])
def test_a_replaced_file_is_read_again(write, name, stamp):
    for word in ("first", "other"):  # of the same length, so that the size does not change either
        path = write(name, rows(word))
        if stamp:
            os.utime(path, stamp)
        source = path.parent if "/" in name else path
        assert data.load(source).dataset["chosen"][:] == 3 * [word]


def test_a_replaced_folder_of_save_to_disk_with_the_same_fingerprint_is_read_again(tmp_path):
    for word in ("first", "other"):
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        made = datasets.Dataset.from_list([{**row, "n": 1} for row in rows(word)])
        made.save_to_disk(str(tmp_path / "saved"))
        state = json.loads((tmp_path / "saved" / "state.json").read_text())
        (tmp_path / "saved" / "state.json").write_text(json.dumps(state | {"_fingerprint": "0123456789abcdef"}))
        assert data.load(tmp_path / "saved").dataset["chosen"][:] == 3 * [word]


@pytest.mark.parametrize("entry", [{"path": "json", "data_files": "a.jsonl"}, {"path": "folder"}])
def test_replaced_files_of_a_mixture_are_read_again(write, tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    before = datasets.config.HF_DATASETS_CACHE
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"model_name_or_path": "embedded", "datasets": [entry]}))
    for word in ("first", "other"):
        for name in ("a.jsonl", "folder/train.jsonl"):
            os.utime(write(name, rows(word)), STAMP)
        loaded = recipe.load("mix.yaml")
        found = dataset.read(loaded, SimpleNamespace(eval_strategy="no", eval_on_start=False), [])
        assert [row[0]["content"] for row in found.train["chosen"]] == 3 * [word]
    assert before == datasets.config.HF_DATASETS_CACHE


def test_an_unchanged_file_is_read_once(write, monkeypatch):
    path = write("a.jsonl", rows("first"))
    data.load(path)
    cached = {file: file.stat().st_mtime_ns for file in datasets.config.HF_DATASETS_CACHE.rglob("*.arrow")}
    os.utime(path, STAMP)  # copied or touched: the content is the same
    data.load(path)
    again = {file: file.stat().st_mtime_ns for file in datasets.config.HF_DATASETS_CACHE.rglob("*.arrow")}
    assert cached and again.items() >= cached.items()
