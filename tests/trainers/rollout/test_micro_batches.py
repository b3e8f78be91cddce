"""Gradients of micro-batches by themselves: a linear model, and memory that runs out as told."""

import contextlib

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from trl_ext.support.errors import UserError
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.rollout.micro_batches import MicroBatches, parts

BATCH = {
    "completion_ids": torch.arange(24).view(6, 4),
    "prompt_ids": torch.zeros(6, 3, dtype=torch.long),
    "x": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "scale": torch.tensor(2.0),
}


class Line:
    """A loss scale·mean(w·x), of batches that have at most so many rows."""

    def __init__(self, fits: int) -> None:
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.fits = fits

    def loss(self, batch, sums):
        sums.add("x", batch["x"].sum(), len(batch["x"]))
        if len(batch["x"]) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return batch["scale"] * (self.weight * batch["x"]).mean()


def micro_batches(**changes):
    accelerator = Accelerator(cpu=True)
    return MicroBatches(accelerator, contextlib.nullcontext, **{"is_checkpointing": False, **changes})


@pytest.mark.parametrize("fits", [6, 5, 2, 1])
def test_the_gradient_does_not_depend_on_what_fits(fits, capsys):
    line, sums, runs = Line(fits), MeanMetrics(), micro_batches()
    line.weight.grad = torch.tensor(10.0)  # of an earlier micro-batch
    loss = runs.backward("in a test", line.loss, BATCH, [line.weight], sums, accumulation=4)
    assert loss.item() == pytest.approx(2 * 3.5) and not loss.requires_grad
    assert line.weight.grad.item() == pytest.approx(10 + 2 * 3.5 / 4)
    assert sums.means() == {"x": 3.5} and sums.total("x") == 21  # once, however often it ran
    halvings = {6: [], 5: [3], 2: [3, 1], 1: [3, 1]}[fits]
    assert runs.part_size == (halvings[-1] if halvings else None)
    said = capsys.readouterr().out
    assert said.count("run again as it was") == bool(halvings)  # once, after cached memory is freed
    assert said.count("at a time from now on") == len(halvings)
    assert said.count("out of memory in a test") == bool(halvings) + len(halvings)


def test_the_size_that_fits_stays():
    line, runs = Line(2), micro_batches()
    runs.part_size = 2
    runs.backward("in a test", line.loss, BATCH, [line.weight], MeanMetrics(), accumulation=1)
    assert runs.part_size == 2


@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_a_single_row_that_does_not_fit_stops_with_a_sentence(is_checkpointing):
    line, runs = Line(0), micro_batches(is_checkpointing=is_checkpointing, row="pair", rows="pairs")
    with pytest.raises(UserError, match=r"Out of memory in a test with a single pair of up to 7 tokens") as raised:
        runs.backward("in a test", line.loss, BATCH, [line.weight], MeanMetrics(), accumulation=1)
    assert ("gradient_checkpointing" in str(raised.value)) != is_checkpointing


def test_other_errors_are_left_alone():
    def broken(batch, sums):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        micro_batches().backward("in a test", broken, BATCH, [], MeanMetrics(), accumulation=1)


def test_numbers_that_hold_for_all_rows_go_with_every_part():
    cut = parts(BATCH, 4)
    assert [part["x"].tolist() for part in cut] == [[1, 2, 3, 4], [5, 6]]
    assert [part["scale"].item() for part in cut] == [2, 2]
