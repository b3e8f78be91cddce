"""Measure PPO with four roles on one base: a rollout and its updates."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.gpu import card, training
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.step import planned
from trl_ext import planner

ROLLOUTS = 2
"""Number of rollouts; the first is a warm-up."""


class Phases:
    """Measures a trainer's rollouts separately from its updates.

    Attributes:
        seconds: Time of each rollout.
        during, between: Peaks during the rollouts, and during the updates after each.
        tokens: Sampled tokens of each rollout.
    """

    def __init__(self, trainer: Any) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []
        self.completions = 0
        self.during: list[card.Peak] = []
        self.between: list[card.Peak] = []
        self._run = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = self._timed

    def _timed(self, inputs: list[dict]) -> Any:
        if self.seconds:
            self.between.append(card.peak())
        card.begin_peak()
        started = time.perf_counter()
        batch = self._run(inputs)
        card.synchronise()
        self.seconds.append(time.perf_counter() - started)
        self.tokens.append(int(batch["completion_mask"].sum()))
        self.completions = len(batch["completion_mask"])
        self.during.append(card.peak())
        card.begin_peak()
        return batch


def measure(bench: Bench, rate: float) -> dict[str, Any]:
    """Cell of kind `rollout`."""
    recipe = bench.case.settled(bench.folder, bench.data)
    per_rollout = recipe.effective("steps_per_generation") or recipe.effective("gradient_accumulation_steps")
    updates = recipe.effective("num_iterations") * per_rollout // recipe.effective("gradient_accumulation_steps")
    with training.trainer(bench, max_steps=ROLLOUTS * updates) as (trainer, recipe):
        phases = Phases(trainer)
        run = training.run(trainer, updates)
        phases.between.append(run.peak)
    cycle = sum(run.times) / (ROLLOUTS - 1)
    rollout = statistics.median(phases.seconds[1:])
    peaks = [*phases.during, *phases.between]
    return {
        **planned(planner.plan(recipe, vram=card.VRAM)),
        "rollout_seconds": rollout,
        "update_seconds": (cycle - rollout) / updates,
        "rollout_allocated_gib": most(phases.during, "allocated_gib"),
        "update_allocated_gib": most(phases.between, "allocated_gib"),
        "allocated_gib": most(peaks, "allocated_gib"),
        "reserved_gib": most(peaks, "reserved_gib"),
        "context_gib": most(peaks, "context_gib"),
        "seconds": cycle / updates,
        "completions": phases.completions,
        "completion_tokens": statistics.mean(phases.tokens),
        "updates": updates,
        "sampled_tokens_per_second": statistics.mean(phases.tokens[1:]) / rollout,
        "lengths": bench.case.lengths,
    }


def most(peaks: list[card.Peak], name: str) -> float | None:
    """The maximum of one field over several peaks."""
    found = [getattr(peak, name) for peak in peaks]
    return None if None in found else max(found)
