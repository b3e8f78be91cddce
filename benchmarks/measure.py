"""Measure time, peak memory and the operations of a call, on a GPU or a CPU."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

HEAD, ATTENTION, DEQUANTISATION = "LM head", "attention", "dequantisation"
INSIDE = {
    HEAD: ("ChunkedLogProbFunction",),
    ATTENTION: ("scaled_dot_product", "ScaledDotProduct"),
    DEQUANTISATION: ("bitsandbytes::dequantize",),
}
"""Parts of a step that are recognised by an operation, or by one that called it."""
PRODUCTS, COPIES, OTHER = "matrix products of the layers", "copies", "elementwise and other"
BY_NAME = {
    PRODUCTS: ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_"),
    COPIES: ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero_", "aten::index_put_", "aten::index"),
}
PARTS = (PRODUCTS, HEAD, ATTENTION, DEQUANTISATION, COPIES, OTHER)


def measure(run: Callable[[], object]) -> dict[str, Any]:
    """Run once. Returns its `seconds` and `peak_bytes`, and on a CPU the share of each of `PARTS` in the time.

    The profiler records while the time is taken. It costs less than 2 % of a step.
    """
    if torch.cuda.is_available():
        took: list[float] = []
        peak = peak_bytes(lambda: took.append(seconds(run)))
        return {"seconds": took[0], "peak_bytes": peak}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        took_here = seconds(run)
    return {"seconds": took_here, "peak_bytes": _peak(log), "shares": shares(log.events())}


def seconds(run: Callable[[], object]) -> float:
    """Time of `run` in seconds: wall-clock time on a GPU, process time of one thread on a CPU.

    Process time does not include the time in which other programs have the core.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    _wait()
    started = clock()
    run()
    _wait()
    return clock() - started


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak bytes of tensors during `run`, minus those allocated before it.

    Measured by the CUDA allocator, or on a CPU from the profiler's log of allocations.
    """
    if torch.cuda.is_available():
        _wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    return peak_bytes_on_cpu(run)


def peak_bytes_on_cpu(run: Callable[[], object]) -> int:
    """Peak bytes of CPU tensors during `run`, from the profiler's log of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        run()
    return _peak(log)


def shares(events: Iterable[Any]) -> dict[str, float]:
    """Share of each of `PARTS` in the time of all operations, from the profiler's events."""
    spent = dict.fromkeys(PARTS, 0.0)
    for event in events:
        spent[part_of(event)] += event.self_cpu_time_total
    total = sum(spent.values()) or 1.0
    return {part: time / total for part, time in spent.items()}


def part_of(event: Any) -> str:
    """The part of a step to which an operation belongs, by its name and by those that called it."""
    caller = event
    while caller is not None:
        for part, names in INSIDE.items():
            if any(name in caller.name for name in names):
                return part
        caller = caller.cpu_parent
    return next((part for part, names in BY_NAME.items() if event.name in names), OTHER)


def _peak(log: Any) -> int:
    events = [(e.start_ns(), e.nbytes()) for e in log.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for _, size in sorted(events):
        now += size
        most = max(most, now)
    return most


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
