"""Room on disks and in the computer's memory."""

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
"""GiB a run may leave where nobody has counted its checkpoints."""
TIGHT, LEAST = 4.0, 1.0
"""GiB of memory: a shard of a model on its way to the card and the libraries take the first; nothing runs on less."""


@dataclass(frozen=True)
class Place:
    """A folder that a run writes to, and what it needs there, in GiB.

    Attributes:
        name: In a sentence.
        needs: Without which a run stops.
        may_take: That may come on top over time.
        remedy: How to put it elsewhere.
    """

    name: str
    path: Path
    needs: float
    may_take: float
    remedy: str


def places(recipe: Any = None, planned: Any = None, downloads: float = 0.0) -> list[Place]:
    """What a run writes to.

    Args:
        recipe: A `trl_ext.recipe.Recipe`, if there is one.
        planned: Its `trl_ext.planner.VramPlan`, if there is one.
        downloads: GiB of its model that are still to be fetched.
    """
    from huggingface_hub import constants

    from trl_ext.reference import folder

    output = Path((recipe and recipe.get("output_dir")) or "runs")
    cache = folder.default_directory()
    grows = max(folder.default_limit() - folder.usage(cache), 0) / GIB
    hub = Path(constants.HF_HUB_CACHE)
    return [
        Place("runs", output, A_RUN if planned is None else checkpoints(recipe, planned), 0.0, "--output_dir"),
        Place("the Hub's cache", hub, downloads, 0.0, "HF_HOME"),
        Place("the reference cache", cache, 0.0, grows, "TRL_EXT_CACHE, or limit it by TRL_EXT_CACHE_GIB"),
    ]


def checkpoints(recipe: Any, planned: Any) -> float:
    """GiB of the adapter and its checkpoints: weights and, in these, both moments of AdamW, in 32 bits."""
    saves = recipe.effective("save_strategy") != "no"
    kept = min(recipe.effective("save_total_limit") or 3, 3) if saves else 0
    return 4 * planned.trained * (1 + 3 * kept) / GIB


def disks(found: list[Place]) -> Iterator[Finding]:
    """One line for each disk, and one for each folder that cannot be written to."""
    by_disk: dict[int, list[Place]] = {}
    for place in found:
        there = existing(place.path)
        if not there.is_dir() or not is_writable(there):
            kind = "cannot be written to" if there.is_dir() else "is a file, not a folder"
            yield fails("disk", f"{place.name}: {there} {kind}", f"choose another folder with {place.remedy}.")
        else:
            by_disk.setdefault(there.stat().st_dev, []).append(place)
    for together in by_disk.values():
        free = free_bytes(existing(together[0].path)) / GIB
        needs, may_take = sum(p.needs for p in together), sum(p.may_take for p in together)
        text = f"{free:.1f} GiB free for {_listed([p.name for p in together])}"
        largest = max(together, key=lambda place: place.needs + place.may_take)
        elsewhere = f"free some, or put {largest.name} elsewhere ({largest.remedy})."
        if free < needs:
            yield fails("disk", f"{text}, which need {needs:.1f}", elsewhere)
        elif free < needs + may_take:
            yield warns("disk", f"{text}, which may take {needs + may_take:.1f}", elsewhere)
        else:
            yield passed("disk", text)


def existing(path: Path) -> Path:
    """The path itself if it is there, else the nearest folder above that is."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK)


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


def memory() -> Iterator[Finding]:
    """Memory that programs can still take, the limit of a container included."""
    free, total = ram()
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < LEAST * GIB:
        yield fails("RAM", text, "close other programs: importing the libraries alone takes about 1 GiB.")
    elif free < TIGHT * GIB:
        yield warns(
            "RAM",
            text,
            f"close other programs: loading a model of 7 billion weights may take {TIGHT:g} GiB for a moment.",
        )
    else:
        yield passed("RAM", text)


def ram() -> tuple[int, int]:
    """Bytes free and in all."""
    import psutil

    found = psutil.virtual_memory()
    limit = container_limit()
    if limit is None or limit >= found.total:
        return found.available, found.total
    return min(found.available, limit - psutil.Process().memory_info().rss), limit


def container_limit() -> int | None:
    """Bytes that the control group of a container allows; `None` where nothing does, or there is no number."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return None


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
