"""Find the longest row that runs forward and backward, with all layers checkpointed and optimizer state allocated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks.gpu import card, training
from benchmarks.gpu.bench import Bench
from trl_ext import planner
from trl_ext.batching.budget import STEP
from trl_ext.support.free_memory import release
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError

SHORTEST, MOST, MOST_SMALL = 2048, 65536, 512


def measure(bench: Bench, rate: float) -> dict[str, Any]:
    """Cell of kind `row_tokens`."""
    found: dict[str, Any] = {}
    with training.trainer(bench, max_steps=1) as (trainer, recipe):
        probe = Probe(trainer)
        most = MOST_SMALL if bench.case.small else MOST
        trainer.add_callback(training.During(1, lambda: found.update(probe.search(min(SHORTEST, most), most))))
        training.run(trainer, 0)
    return found | {"planned_row_tokens": planner.plan(recipe, vram=card.VRAM).largest_row}


class Probe:
    """Searches the longest row of a trainer."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def search(self, start: int, most: int) -> dict[str, Any]:
        """The longest row that fits, and its peak memory."""
        self.trainer.memory.recompute_everything()
        fits, fails = largest(self.fits, start, most)
        card.begin_peak()
        if fits:
            self.fits(fits)
        taken = card.peak()
        return {
            "row_tokens": fits,
            "did_not_fit": fails,
            "allocated_gib": taken.allocated_gib,
            "reserved_gib": taken.reserved_gib,
        }

    def fits(self, tokens: int) -> bool:
        """Whether a row of up to `tokens` tokens runs."""
        trainer = self.trainer
        row = filled(trainer.train_dataset, trainer.rows.size, tokens)
        baseline = {"z_ref": torch.zeros((), device=trainer.args.device)} if "z_ref" in trainer.loss.inputs else {}
        try:
            with trainer.runtime.locally():
                trainer.step.backward(row, float(len(row)), baseline, MeanMetrics())
            return True
        except RowsDoNotFitError:
            pass
        finally:
            trainer.model.zero_grad(set_to_none=False)
        release()  # outside the handler: its traceback keeps the row alive
        return False


def filled(examples: Iterable[dict], size: Callable[[list[dict]], int], tokens: int) -> list[dict]:
    """The first examples that fill a row of up to `tokens` tokens; always one or more."""
    row: list[dict] = []
    for example in examples:
        if row and size([*row, example]) > tokens:
            break
        row.append(example)
    return row


def largest(fits: Callable[[int], bool], start: int, most: int) -> tuple[int, int | None]:
    """The largest multiple of `STEP` that fits (0 if none does), and the smallest number found not to fit.

    Args:
        fits: Whether a number fits; smaller numbers are then assumed to fit.
        start: First number tried; it is then doubled.
        most: Largest number tried.
    """
    good, bad = 0, None
    for tokens in itertools.takewhile(lambda n: n <= most, (start * 2**i for i in itertools.count())):
        if not fits(tokens):
            bad = tokens
            break
        good = tokens
    while bad is not None and bad - good > STEP:
        middle = (good + bad) // 2 // STEP * STEP or STEP
        if middle in (good, bad):
            break
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good, bad
