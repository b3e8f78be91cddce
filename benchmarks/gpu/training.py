"""Build the trainer of a case and time some of its steps."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from benchmarks.gpu import card, roofline
from benchmarks.gpu.bench import Bench
from trl_ext.build.trainer import build_trainer
from trl_ext.recipe import Recipe
from trl_ext.support.free_memory import release

WARM_UP, MEASURED = 2, 4
"""Number of warm-up steps, and of measured steps."""


class Clock(TrainerCallback):
    """Measures the time from the end of one step to the end of the next, with the device synchronised."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.since: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        card.synchronise()
        self.since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        card.synchronise()
        now = time.perf_counter()
        self.times.append(now - self.since)
        self.since = now


class Run(NamedTuple):
    """Some steps of a trainer.

    Attributes:
        times: Seconds of each step after the warm-up.
        tallies: Tokens of each step after the warm-up.
        losses: Logged loss of every step.
        peak: Peak memory of all steps.
        said: Lines that the trainer printed.
    """

    times: list[float]
    tallies: list[roofline.Tally]
    losses: list[float]
    peak: card.Peak
    said: list[str]


class _Tallies(TrainerCallback):
    """Keeps a tally for each step."""

    def __init__(self) -> None:
        self.current = roofline.Tally()
        self.all: list[roofline.Tally] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.all.append(roofline.Tally(**vars(self.current)))
        vars(self.current).update(vars(roofline.Tally()))


class Unpaged(TrainerCallback):
    """Lets a paged optimizer of bitsandbytes create its states in memory of PyTorch's allocator, with the same updates.

    CUDA allocates paged memory, so it would escape the limit on the allocator (`benchmarks.gpu.card.hold`) and its peaks. On a
    larger card the states would lie in memory that the emulated card does not have.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        if getattr(optimizer, "is_paged", False):
            optimizer.is_paged = False


def run(trainer: Any, warm_up: int = WARM_UP) -> Run:
    """Train for the configured number of steps; the first `warm_up` steps are not measured."""
    clock, tallies, printed = Clock(), _Tallies(), io.StringIO()
    trainer.add_callback(clock)
    trainer.add_callback(tallies)
    trainer.add_callback(Unpaged())
    card.begin_peak()
    with contextlib.redirect_stdout(printed), roofline.counting(trainer.model, tallies.current):
        trainer.train()
    card.synchronise()
    return Run(
        clock.times[warm_up:],
        tallies.all[warm_up:],
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        card.peak(),
        [line.strip() for line in printed.getvalue().splitlines() if line.strip()],
    )


class During(TrainerCallback):
    """Runs a function at the end of one step, while model and optimizer are ready for training."""

    def __init__(self, step: int, work: Callable[[], None]) -> None:
        self.step, self.work = step, work

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.work()


@contextmanager
def trainer(bench: Bench, **values: Any) -> Iterator[tuple[Any, Recipe]]:
    """The trainer of a case on the bench's base, which is given back afterwards.

    Args:
        bench: The case with its model and data.
        values: Settings that override the recipe's.
    """
    if bench.case.recipe.get("reward_adapter"):
        values["reward_adapter"] = str(bench.reward_adapter)
    recipe = bench.case.settled(bench.folder, bench.data, **values)
    bench.base.is_classifier = recipe.method.trains_scores
    with fresh(bench) as (place, held):
        held.append(build_trainer(recipe, place, bench.base).trainer)
        yield held[0], recipe


@contextmanager
def fresh(bench: Bench) -> Iterator[tuple[Path, list]]:
    """A folder, and a list for a trainer, which gives the base back at the end.

    The reference cache is empty, so reference passes are run as in a first epoch.
    """
    held: list[Any] = []
    release()  # reference cycles may keep an earlier trainer's optimizer alive
    with tempfile.TemporaryDirectory(dir=bench.place) as place, _environment(TRL_EXT_CACHE=f"{place}/cache"):
        try:
            yield Path(place, "run"), held
        finally:
            if held:
                bench.base.take_back(held.pop())


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
