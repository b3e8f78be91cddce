"""Compare the planned memory of a run with this machine before it starts, and with the measured peak afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from trl_ext import planner
from trl_ext.checks import sharding
from trl_ext.planner import calibration
from trl_ext.planner.memory import GIB
from trl_ext.recipe import Recipe
from trl_ext.runs.signals import Interrupted, guard
from trl_ext.support import atomic
from trl_ext.support.errors import UserError

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files that hold the memory limit of a container, in versions 2 and 1."""


class Machine(NamedTuple):
    """Memory a run may use: total and free bytes, and a name of the device."""

    total: float
    free: float
    name: str
    is_cuda: bool


def machine(recipe: Recipe) -> Machine:
    """The GPU of a recipe, or the main memory where it runs on a CPU or on a device that shares it."""
    if torch.cuda.is_available() and not recipe.get("use_cpu"):
        free, total = torch.cuda.mem_get_info()
        return Machine(total, free, f"this {torch.cuda.get_device_name()}", True)
    memory = psutil.virtual_memory()
    total = min(memory.total, *(limit for file in CGROUP_LIMITS if (limit := _number_in(file))), memory.total)
    return Machine(total, min(memory.available, total), "this machine's main memory", False)


def check(recipe: Recipe) -> list[str]:
    """Refuse a recipe that cannot fit. Returns warnings: memory is tight, or no plan could be made or applies.

    Raises:
        UserError: The recipe does not fit with any of the memory-saving settings.
    """
    if sharding.is_on(recipe.get("fsdp")):
        return [f"Memory is not checked. {sharding.PLAN}"]
    here = machine(recipe)
    judged = recipe if here.is_cuda else in_float32(recipe)
    try:
        planned = planner.plan(judged, vram=here.total / GIB)
    except UserError as error:  # a model the planner cannot count may train all the same
        if guard.is_requested:  # a signal inside an import arrives as a module that cannot be imported
            raise Interrupted(guard.last_words()) from error
        return [f"Memory could not be estimated: {error}"]
    planner.refuse(judged, here.total / GIB, here.name)
    if not here.is_cuda or planned.peak <= here.free:
        return []
    return [
        f"Memory: the plan needs {planned.peak / GIB:.1f} GiB, but only {here.free / GIB:.1f} of {here.total / GIB:.1f} GiB "
        "are free because other programs use the rest. Rows will be shorter, or the run will run out of memory."
    ]


def compare(recipe: Recipe, trainer: Any, directory: Path) -> str | None:
    """On a GPU, write planned and measured memory to `plan.json`; the plan is made for the row length that was trained.

    The measurement is the peak of the allocator plus the memory of the CUDA context and of other programs.

    Returns:
        A sentence with both; `None` without a GPU.
    """
    here = machine(recipe)
    if not here.is_cuda:
        return None
    beside = here.total - here.free - torch.cuda.memory_reserved()
    measured = torch.cuda.max_memory_reserved() + beside
    choice = (trainer.memory if recipe.method.samples_completions else trainer).longest_row
    try:
        planned = planner.plan(recipe, vram=here.total / GIB, choice=choice)
    except UserError:
        return None  # reported before the run
    content = calibration.record(planned, measured) | {
        "allocated": torch.cuda.max_memory_allocated(),
        "device": torch.cuda.get_device_name(),
    }
    atomic.write_json(directory / calibration.FILE, content)
    return (
        f"peak memory: {measured / GIB:.2f} GiB measured, {planned.peak / GIB:.2f} GiB planned "
        f"({content['relative_error']:+.1%})"
    )


def in_float32(recipe: Recipe) -> Recipe:
    """The recipe as it runs on a CPU, where weights that are not quantised are float32 unless it sets `dtype`."""
    return replace(recipe, values={"dtype": "float32", **recipe.values})


def _number_in(file: str) -> int | None:
    try:
        text = Path(file).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
