"""Small files to load, a cache of their own, and no progress bars."""

import bz2
import csv
import gzip
import io
import json
import lzma

import datasets
import pytest
import zstandard

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


def spelled(kind, rows):
    """The text of a file of this kind."""
    if kind == ".json":
        return json.dumps(rows, indent=1)
    if kind in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, rows[0], delimiter="\t" if kind == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
        return text.getvalue()
    return "".join(json.dumps(row) + "\n" for row in rows)


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
        kind, compress = path.suffix, None
        if kind in COMPRESS:
            kind, compress = path.with_suffix("").suffix, COMPRESS[kind]
        if kind == ".parquet":
            datasets.Dataset.from_list(rows).to_parquet(str(path))
        else:
            text = spelled(kind, rows).encode()
            path.write_bytes(compress(text) if compress else text)
        return path

    return _write
