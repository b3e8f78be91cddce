"""Profile a step by kernel."""

from __future__ import annotations

import re
import time
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from benchmarks.gpu import card, training
from benchmarks.gpu.bench import Bench

TOP = 15
PARTS = {
    "dequantisation": r"dequant",
    "attention": r"flash|fmha|scaled_dot_product|attention",
    "head": r"_(forward|backward)_kernel$|_logprob",
    "optimizer": r"optimizer|adam|multi_tensor|lpnorm",
    "matmul": r"gemm|nvjet|cutlass|xmma|cublas|wgmma|gemv|::mm$|::addmm|::bmm|::linear$|splitk",
    "copies": r"memcpy|memset|copy|::to$|::cat$|index_select|::index$|gather|scatter|CatArray",
}
"""Patterns of kernel names by part of a step; the first match counts. `head` is TRL's LM head without its matrix products,
which are counted in `matmul`. On a CPU, operators are used instead of kernels."""


class Profiler(TrainerCallback):
    """Profiles one step."""

    def __init__(self, step: int) -> None:
        self.step, self.seconds = step, 0.0
        on_device = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.log = profile(activities=[ProfilerActivity.CPU, *on_device])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            card.synchronise()
            self.log.start()
            self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            card.synchronise()
            self.seconds = time.perf_counter() - self.started
            self.log.stop()


def measure(bench: Bench, rate: float) -> dict[str, Any]:
    """Cell of kind `profile`."""
    steps = training.WARM_UP + 1
    profiler = Profiler(steps)
    with training.trainer(bench, max_steps=steps) as (trainer, _):
        trainer.add_callback(profiler)
        training.run(trainer, 0)
    kernels = of(profiler.log)
    total = sum(kernel["seconds"] for kernel in kernels)
    return {
        "seconds": profiler.seconds,
        "kernel_seconds": total,
        "shares": shares(kernels),
        "top": kernels[:TOP],
    }


def of(log: profile) -> list[dict[str, Any]]:
    """The kernels of a profile, or its operators without a GPU, longest first."""
    on_device = torch.cuda.is_available()
    found = []
    for event in log.key_averages():
        if on_device and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue
        microseconds = event.self_device_time_total if on_device else event.self_cpu_time_total
        found.append({"name": event.key[:200], "seconds": microseconds / 1e6, "calls": event.count})
    return sorted(found, key=lambda kernel: -kernel["seconds"])


def shares(kernels: list[dict[str, Any]]) -> dict[str, float]:
    """Share of each part in the time of all kernels; unmatched kernels are the rest."""
    total = sum(kernel["seconds"] for kernel in kernels) or 1.0
    found = dict.fromkeys((*PARTS, "rest"), 0.0)
    for kernel in kernels:
        found[part_of(kernel["name"])] += kernel["seconds"] / total
    return found


def part_of(name: str) -> str:
    """The part of a step to which a kernel belongs, by its name."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name, re.IGNORECASE)), "rest")
