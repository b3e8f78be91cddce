"""Check the free space on disks and in main memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext.doctor.finding import Finding, fails, passed, warns

GIB = 2**30
A_RUN = 1.0
"""GiB a run is assumed to write if its checkpoints cannot be counted."""
TIGHT, LEAST = 4.0, 1.0
"""GiB of main memory: `TIGHT` covers the libraries and one shard of a model on its way to the GPU; below `LEAST` nothing runs."""


@dataclass(frozen=True)
class Place:
    """A folder that a run writes to, and what it needs there, in GiB.

    Attributes:
        name: Its name in messages.
        needs: Space a run needs there.
        may_take: Additional space that may be used over time.
        remedy: The setting that moves it.
    """

    name: str
    path: Path
    needs: float
    may_take: float
    remedy: str


def places(recipe: Any = None, planned: Any = None, downloads: float = 0.0) -> list[Place]:
    """The folders a run writes to.

    Args:
        recipe: A `trl_ext.recipe.Recipe`, if there is one.
        planned: Its `trl_ext.planner.VramPlan`, if there is one.
        downloads: GiB of its model that are still to be downloaded.
    """
    from huggingface_hub import constants

    from trl_ext.reference import folder

    output = Path((recipe and recipe.get("output_dir")) or "runs")
    cache = folder.default_directory()
    grows = max(folder.default_limit() - folder.usage(cache), 0) / GIB
    hub = Path(constants.HF_HUB_CACHE)
    return [
        Place("runs", output, A_RUN if planned is None else checkpoints(recipe, planned), 0.0, "--output_dir"),
        Place("the Hub cache", hub, downloads, 0.0, "HF_HOME"),
        Place("the reference cache", cache, 0.0, grows, "TRL_EXT_CACHE; TRL_EXT_CACHE_GIB limits its size"),
    ]


def checkpoints(recipe: Any, planned: Any) -> float:
    """GiB of the adapter and its checkpoints: weights and, in checkpoints, both moments of AdamW, in 32 bits."""
    saves = recipe.effective("save_strategy") != "no"
    kept = min(recipe.effective("save_total_limit") or 3, 3) if saves else 0
    return 4 * planned.trained * (1 + 3 * kept) / GIB


def disks(found: list[Place]) -> Iterator[Finding]:
    """One finding for each disk, and one for each folder that cannot be written to."""
    by_disk: dict[int, list[Place]] = {}
    for place in found:
        there = existing(place.path)
        if not there.is_dir() or not is_writable(there):
            kind = "cannot be written to" if there.is_dir() else "is a file, not a folder"
            yield fails("disk", f"{place.name}: {there} {kind}", f"Choose another folder with {place.remedy}.")
        else:
            by_disk.setdefault(there.stat().st_dev, []).append(place)
    for together in by_disk.values():
        free = free_bytes(existing(together[0].path)) / GIB
        needs, may_take = sum(p.needs for p in together), sum(p.may_take for p in together)
        text = f"{free:.1f} GiB free for {_listed([p.name for p in together])}"
        largest = max(together, key=lambda place: place.needs + place.may_take)
        elsewhere = f"Free some space, or move {largest.name} to another disk ({largest.remedy})."
        if free < needs:
            yield fails("disk", f"{text}; they need {needs:.1f} GiB", elsewhere)
        elif free < needs + may_take:
            yield warns("disk", f"{text}; they may grow to {needs + may_take:.1f} GiB", elsewhere)
        else:
            yield passed("disk", text)


def existing(path: Path) -> Path:
    """The path itself if it exists, else the nearest existing folder above it."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK)


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


def memory() -> Iterator[Finding]:
    """Check the free main memory, within the limit of a container."""
    free, total = ram()
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LEAST * GIB:
        yield fails("RAM", text, "Close other programs: importing the libraries alone takes about 1 GiB.")
    elif free < TIGHT * GIB:
        yield warns(
            "RAM",
            text,
            f"Close other programs: loading a model of 7 billion weights briefly takes up to {TIGHT:g} GiB.",
        )
    else:
        yield passed("RAM", text)


def ram() -> tuple[int, int]:
    """Free and total bytes."""
    import psutil

    found = psutil.virtual_memory()
    limit = container_limit()
    if limit is None or limit >= found.total:
        return found.available, found.total
    return min(found.available, limit - psutil.Process().memory_info().rss), limit


def container_limit() -> int | None:
    """Memory limit of the container's control group in bytes; `None` without a limit."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
