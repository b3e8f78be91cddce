"""Gradients of an optimizer step by themselves: a linear model, and memory that runs out as told."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from trl_ext.support.errors import UserError
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.rollout.backward import Backward, join, take
from trl_ext.trainers.rollout.rows import RolloutRows

IDS = {"completion_ids": torch.arange(24).view(6, 4), "prompt_ids": torch.zeros(6, 3, dtype=torch.long)}
BATCH = {
    **IDS,
    "completion_mask": torch.ones_like(IDS["completion_ids"]),
    "prompt_mask": torch.ones_like(IDS["prompt_ids"]),
    "x": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "scale": torch.tensor(2.0),
}
# One prompt of three tokens: its first two once, the last with each of the six completions of four: 2 + 6·5 = 32 tokens.


class Line(nn.Module):
    """A loss scale·mean(w·x), of batches that have at most so many completions."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.fits = fits
        self.seen = []

    def loss(self, batch, sums):
        self.seen.append(len(batch["x"]))
        sums.add("x", batch["x"].sum(), len(batch["x"]))
        if len(batch["x"]) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return batch["scale"] * (self.weight * batch["x"]).mean()


def rows_of(line, *, is_packed=True, **settings):
    args = SimpleNamespace(
        **{"row_tokens": "auto", "gradient_checkpointing": False, "device": torch.device("cpu")} | settings
    )
    runtime = Runtime(line, args, Accelerator(cpu=True), contextlib.nullcontext, lambda batch: batch)
    rows = RolloutRows(runtime, RowMemory(runtime, lambda: None), pad_token_id=0)
    rows.is_packed = is_packed
    return rows


@pytest.mark.parametrize(
    ("fits", "shorter", "rows"), [(6, [], [6]), (5, [16], [2] * 3), (2, [16], [2] * 3), (1, [16, 6], [1] * 6)]
)
def test_the_gradient_does_not_depend_on_what_fits(fits, shorter, rows, capsys):
    """Rows of 16 tokens have two completions, 2 + 2·5; those of 6 have one, of 7 tokens in a row of its own."""
    line, sums = Line(fits), MeanMetrics()
    step = Backward(rows_of(line))
    line.weight.grad = torch.tensor(10.0)  # of an earlier batch of the step
    loss = step.run("in a test", line.loss, BATCH, [line.weight], sums, accumulation=4)
    assert loss.item() == pytest.approx(2 * 3.5) and not loss.requires_grad
    assert line.weight.grad.item() == pytest.approx(10 + 2 * 3.5 / 4)
    assert sums.means() == {"x": 3.5} and sums.total("x") == 21  # once, however often it ran
    assert step.rows.memory.row_budget == (shorter[-1] if shorter else None)
    assert line.seen[-len(rows) :] == rows
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("the step is run again as it was") == bool(shorter)  # once, after cached memory is freed
    for tokens in shorter:
        assert said.count(f"the step is run again, with rows of up to {tokens} tokens from now on") == 1
    assert said.count("out of memory in a test") == bool(shorter) + len(shorter)


def test_padded_rows_are_cut_by_their_padded_length():
    """Six sequences of 7 tokens: 42. Rows of 21 hold three."""
    line = Line(5)
    step = Backward(rows_of(line, is_packed=False))
    step.run("in a test", line.loss, BATCH, [line.weight], MeanMetrics())
    assert step.rows.memory.row_budget == 21 and line.seen[-2:] == [3, 3]


def test_row_tokens_limit_rows_from_the_start():
    line = Line(6)
    Backward(rows_of(line, row_tokens=16)).run("in a test", line.loss, BATCH, [line.weight], MeanMetrics())
    assert line.seen == [2, 2, 2] and line.weight.grad.item() == pytest.approx(7)


@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_a_single_pair_that_does_not_fit_stops_with_a_sentence(is_checkpointing):
    line = Line(0)
    step = Backward(rows_of(line, gradient_checkpointing=is_checkpointing), "pair")
    pairs = BATCH | {name: BATCH[name].view(3, 2, 4) for name in ("completion_ids", "completion_mask")}
    pairs |= {name: BATCH[name][:3] for name in ("prompt_ids", "prompt_mask", "x")}
    with pytest.raises(UserError, match="Out of memory in a test with a single pair of 12 tokens") as raised:
        step.run("in a test", line.loss, pairs, [line.weight], MeanMetrics())
    assert ("gradient_checkpointing" in str(raised.value)) != is_checkpointing


def test_other_errors_are_left_alone():
    def broken(batch, sums):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Backward(rows_of(Line(6))).run("in a test", broken, BATCH, [], MeanMetrics())


def test_numbers_that_hold_for_all_rows_go_with_every_part():
    part = take(BATCH, [5, 1])
    assert part["x"].tolist() == [6, 2] and part["scale"].item() == 2
    assert join([take(BATCH, [0, 1]), take(BATCH, [2])])["x"].tolist() == [1, 2, 3]
    assert join([BATCH, BATCH])["scale"].item() == 2
