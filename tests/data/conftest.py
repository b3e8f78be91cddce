"""Small files to load, a cache of their own, and no progress bars."""

import csv
import gzip
import json

import datasets
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep the user's dataset cache out of the tests, and the tests out of it."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "downloads")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", cache / "extracted")
    datasets.disable_progress_bars()
    return cache


@pytest.fixture
def write(tmp_path):
    """write(name, rows) -> path of a file of the kind the name's ending says."""

    def _write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        if name.endswith(".gz"):
            with gzip.open(path, "wt", encoding="utf-8") as file:
                file.write(lines)
        elif name.endswith(".jsonl"):
            path.write_text(lines, encoding="utf-8")
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        elif name.endswith((".csv", ".tsv")):
            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, rows[0], delimiter="\t" if name.endswith(".tsv") else ",")
                table.writeheader()
                table.writerows(rows)
        elif name.endswith(".parquet"):
            datasets.Dataset.from_list(rows).to_parquet(str(path))
        return path

    return _write
