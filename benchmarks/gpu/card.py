"""Describe and limit the card, measure its matrix-product rate, and read peak memory."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

import psutil
import torch

from benchmarks.gpu.results import Card
from trl_ext.planner.memory import GIB
from trl_ext.planner.vram_plan import DISPLAY

CAP = 22.5
"""Limit of the allocator in GiB, so that a larger card gives the result of a 24 GB card."""
VRAM = CAP + DISPLAY
"""Memory in GiB of the emulated card, as the planner counts it."""
SIDE = 8192
"""Side of the square matrices whose product is timed."""


class Peak(NamedTuple):
    """Peak of live tensors, peak of the allocator, and memory in use outside it, in GiB; `None` on a CPU."""

    allocated_gib: float | None
    reserved_gib: float | None
    context_gib: float | None


def device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def hold() -> str | None:
    """Limit the allocator. Returns a sentence if the card has less memory than the limit."""
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    if total <= CAP:
        return f"This card has {total:.1f} GiB, less than the {CAP} GiB in which recipes for 24 GB cards are measured."
    torch.cuda.set_per_process_memory_fraction(CAP / total, 0)
    return None


def describe() -> Card:
    """Describe the card and measure its rate; without a GPU, describe the CPU."""
    if not torch.cuda.is_available():
        memory = psutil.virtual_memory().total / GIB
        rate = _rate(256, torch.float32)
        return Card(name="CPU", memory_gib=memory, cap_gib=memory, bf16_tflops_measured=rate, compute_capability="")
    properties = torch.cuda.get_device_properties(0)
    total = properties.total_memory / GIB
    return Card(
        name=properties.name,
        memory_gib=total,
        cap_gib=min(CAP, total),
        bf16_tflops_measured=_rate(SIDE, torch.bfloat16),
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def _rate(side: int, dtype: torch.dtype) -> float:
    """TFLOP/s of square matrix products of random numbers: median of ten after three warm-up products."""
    a, b = (torch.randn(side, side, device=device(), dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13):
        synchronise()
        started = time.perf_counter()
        a @ b
        synchronise()
        times.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(times[3:]) / 1e12


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def begin_peak() -> None:
    """Start measuring peaks."""
    if torch.cuda.is_available():
        synchronise()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> Peak:
    """The peaks since `begin_peak`."""
    if not torch.cuda.is_available():
        return Peak(None, None, None)
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    found = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), outside
    return Peak(*(each / GIB for each in found))
