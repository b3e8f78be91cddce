"""A trainer for a case, and some of its steps, timed."""

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
from trl_ext.trainers.common.out_of_memory import release

WARM_UP, MEASURED = 2, 4
"""Steps before the clock runs, and steps it runs for."""


class Clock(TrainerCallback):
    """Seconds from the end of one step to the end of the next, the device waited for: data, forward, backward, update."""

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
        times: Seconds of each step after warm-up.
        tallies: Tokens of each step after warm-up.
        losses: As logged, of every step.
        peak: Of all steps.
        said: Lines the trainer printed.
    """

    times: list[float]
    tallies: list[roofline.Tally]
    losses: list[float]
    peak: card.Peak
    said: list[str]


class _Tallies(TrainerCallback):
    """A tally for each step, in turn."""

    def __init__(self) -> None:
        self.current = roofline.Tally()
        self.all: list[roofline.Tally] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.all.append(roofline.Tally(**vars(self.current)))
        vars(self.current).update(vars(roofline.Tally()))


def run(trainer: Any, warm_up: int = WARM_UP) -> Run:
    """Train for the steps a trainer's configuration says, of which the first `warm_up` do not count."""
    clock, tallies, printed = Clock(), _Tallies(), io.StringIO()
    trainer.add_callback(clock)
    trainer.add_callback(tallies)
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
    """Does something at the end of one step, while model and optimizer are as training has prepared them."""

    def __init__(self, step: int, work: Callable[[], None]) -> None:
        self.step, self.work = step, work

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.work()


@contextmanager
def trainer(bench: Bench, **values: Any) -> Iterator[tuple[Any, Recipe]]:
    """The package's own trainer of a case on the bench's base, which is taken back afterwards.

    Args:
        bench: Holds the case, its model and its data.
        values: Settings over the recipe's.
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
    """A folder, and a list: the trainer that is put into it gives the base back in the end.

    The reference cache is empty, so that reference passes are run, as in an epoch's first steps.
    """
    held: list[Any] = []
    release()  # a trainer before this one may still hold its optimizer, in cycles
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
