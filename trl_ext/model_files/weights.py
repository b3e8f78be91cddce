"""Files of weights, read as far as their header: eight bytes for its length, then JSON."""

import json
from pathlib import Path
from typing import Any, NamedTuple

LFS = b"version https://git-lfs"


class Header(NamedTuple):
    """Of a safetensors file: what it says of each tensor by name, and how many bytes the whole file must have."""

    tensors: dict[str, dict[str, Any]]
    bytes: int


def header(path: Path) -> Header:
    """Read the header of a safetensors file. ValueError if it has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError(f"{path.name} is no safetensors file")
        try:
            tensors = {name: entry for name, entry in json.loads(file.read(length)).items() if name != "__metadata__"}
            return Header(
                tensors, 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            )
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"{path.name} is no safetensors file") from error


def why_unreadable(path: Path) -> str | None:
    """Why a safetensors file cannot be read, as the end of a sentence; `None` if it is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            return "is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder"
    try:
        expected = header(path).bytes
    except ValueError:
        return f"is no whole safetensors file ({size:,} bytes): copy, download or save it again"
    if size == expected:
        return None
    return f"holds {size:,} of {expected:,} bytes: copy, download or save it again"
