"""Write and check the manifest of a checkpoint: its files with sizes and digests, and the run that wrote it.

It is written last, so a checkpoint with a manifest is complete.
"""

import hashlib
import json
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from trl_ext.model_files.weights import why_unreadable
from trl_ext.support import atomic

FILE = "trl_ext_checkpoint.json"
STATE = "trainer_state.json"
OPTIMIZER = "optimizer.pt"
OF_FSDP = ("optimizer.bin", "optimizer_0")
"""The optimizer's file or folder of a run that FSDP sharded."""
SHARDED_WEIGHTS = "pytorch_model_fsdp*"
"""Weights that FSDP reads back: a file, or a folder."""
ARCHIVES = (OPTIMIZER, "scheduler.pt", "scaler.pt", "rng_state*.pth", "*_state_[0-9]*.pt")
"""Files torch saved. They are zip archives, whose directory is at the end, so a truncated one has none."""


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a checkpoint whose other files are all there.

    Args:
        folder: The checkpoint.
        facts: Further content of the manifest, as JSON.
    """
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _digest(folder / name)} for name in _names(folder)
    }
    atomic.write_json(folder / FILE, {**facts, "files": files})


def read(folder: Path) -> dict[str, Any]:
    """The manifest; empty for a checkpoint that plain TRL wrote."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def damage(folder: Path) -> str | None:
    """The first missing or damaged file of a checkpoint, as a clause that begins with its name; `None` if it is complete."""
    try:
        files = read(folder).get("files")
        expected = files and {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (ValueError, AttributeError, TypeError, KeyError):
        return f"{FILE} cannot be read"
    if not expected:
        return _damage_without_manifest(folder)
    for name, (size, _) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
    changed = [name for name, (_, digest) in expected.items() if _digest(folder / name) != digest]
    return f"{changed[0]} has changed since it was written" if changed else None


def has_optimizer(folder: Path) -> bool:
    """Whether a checkpoint holds the state of the optimizer, and not only weights (`save_only_model`)."""
    return any((folder / name).exists() for name in (OPTIMIZER, *OF_FSDP))


def _names(folder: Path) -> list[str]:
    """All files except model cards, which users may edit."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)  # a resume checks before and after the heavy imports
def _digest_of(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage_without_manifest(folder: Path) -> str | None:
    """As `damage`, judged by the order in which transformers writes and by the length each file declares."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state.get("global_step"), int):
            return f"{STATE} holds no step number"
    except FileNotFoundError:
        return f"{STATE} is missing"
    except (ValueError, AttributeError):
        return f"{STATE} is not JSON"
    weights = [
        p for pattern in ("*.safetensors", "adapter_model.bin", "pytorch_model*.bin") for p in folder.glob(pattern)
    ]
    if not weights:
        return "adapter_model.safetensors (or model.safetensors) is missing"
    # `save_only_model` saves none of the three; one or two of them are left by a save that was interrupted.
    parts = {name: any(folder.glob(name)) for name in ("scheduler.pt", "rng_state*.pth")}
    parts[OPTIMIZER] = has_optimizer(folder)
    if any(parts.values()) and not all(parts.values()):
        return f"{next(name for name, is_there in parts.items() if not is_there)} is missing"
    broken = [path for path in sorted(folder.rglob("*.safetensors")) if why_unreadable(path)]
    broken += [path for pattern in ARCHIVES for path in sorted(folder.glob(pattern)) if not zipfile.is_zipfile(path)]
    return f"{broken[0].relative_to(folder).as_posix()} is truncated" if broken else None
