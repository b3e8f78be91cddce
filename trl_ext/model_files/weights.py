"""Read the headers of safetensors files: eight bytes for the length, then JSON."""

import json
from pathlib import Path
from typing import Any, NamedTuple

LFS = b"version https://git-lfs"


class Header(NamedTuple):
    """Header of a safetensors file: the entry of each tensor by name, and the size of the whole file in bytes."""

    tensors: dict[str, dict[str, Any]]
    bytes: int


def header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        ValueError: It has none.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            raise ValueError(f"{path.name} is not a safetensors file")
        try:
            tensors = {name: entry for name, entry in json.loads(file.read(length)).items() if name != "__metadata__"}
            return Header(
                tensors, 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            )
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"{path.name} is not a safetensors file") from error


def why_unreadable(path: Path) -> str | None:
    """Why a safetensors file cannot be read, as the end of a sentence; `None` if it has the size its header declares."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            return "is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder"
    try:
        expected = header(path).bytes
    except ValueError:
        return f"is not a complete safetensors file ({size:,} bytes). Copy, download or save it again"
    if size == expected:
        return None
    return f"holds only {size:,} of {expected:,} bytes. Copy, download or save it again"
