"""Tell from its name whether a file holds data, which kind, and how it is compressed."""

from __future__ import annotations

from pathlib import Path

BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""{kind of file: the builder of the `datasets` library that reads it}."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
LINES = (".jsonl", ".ndjson")
"""Kinds with one JSON object per line."""
TEXT = tuple(kind for kind, builder in BUILDERS.items() if builder in ("json", "csv"))
"""Kinds that are text, and that may be compressed. Parquet and Arrow files compress their columns themselves."""
ALLOWED = f"{', '.join(BUILDERS)}; {', '.join(TEXT)} may also be compressed ({', '.join(COMPRESSIONS)})"


def compression(path: str | Path) -> str | None:
    """The ending that names a compression: `.gz` of `a.json.gz`."""
    ending = Path(path).suffix.lower()
    return ending if ending in COMPRESSIONS else None


def kind(path: str | Path) -> str:
    """The ending that names how rows are written: `.json` of `a.json.gz`; "" if there is none."""
    path = Path(path)
    return Path(path.stem).suffix.lower() if compression(path) else path.suffix.lower()


def builder(path: str | Path) -> str | None:
    """The builder of `datasets` that reads the file; `None` for a file that holds no data that can be read."""
    if compression(path) and kind(path) not in TEXT:
        return None
    return BUILDERS.get(kind(path))


def is_data_file(name: str | Path) -> bool:
    """True if a name ends as data files do, so that it is no dataset's name on the Hub. `.txt` files are not read."""
    return compression(name) is not None or kind(name) in (*BUILDERS, ".txt")


def without_endings(path: str | Path) -> str:
    """`pairs` of `data/pairs.json.gz`."""
    name = Path(path).name
    while is_data_file(name):
        name = Path(name).stem
    return name
