"""Measure time and peak memory of a call, on a GPU or a CPU."""

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def seconds(run: Callable[[], object]) -> float:
    """Time of `run` in seconds: wall-clock time on a GPU, process time of one thread on a CPU.

    Process time is not affected by other programs on a machine with few cores.
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
    events = [(e.start_ns(), e.nbytes()) for e in log.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for _, size in sorted(events):
        now += size
        most = max(most, now)
    return most


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
