"""Name the cached result of one step on a dataset.

The key holds the dataset's fingerprint, the step's arguments and a hash of this package's source: the same input gives the
same files, and a new version of the code never reads rows that an old version wrote.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import xxhash
from datasets import Dataset


def fingerprint(dataset: Dataset, step: str, *parts: Any) -> str:
    """The cache key of one step. By itself, `datasets` keys on a function's name, whatever its code."""
    text = repr([dataset._fingerprint, step, *parts, _source_version()])
    return xxhash.xxh64_hexdigest(text.encode("utf-8", "surrogatepass"))


def mixed(dataset: Dataset, content: str) -> str:
    """A fingerprint of a dataset that also depends on the content of the files it was read from."""
    return xxhash.xxh64_hexdigest(f"{dataset._fingerprint} {content}".encode())


@cache
def _source_version() -> str:
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return xxhash.xxh64_hexdigest(b"".join(path.read_bytes() for path in files))
