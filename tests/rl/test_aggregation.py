"""Aggregations by their definitions as sums, and that cutting a step changes nothing."""

import pytest
import torch

from trl_ext.rl import aggregation

EVERY = pytest.mark.parametrize("how", aggregation.AGGREGATIONS)
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
LOSSES = torch.tensor([[1.0, 2.0, 6.0, 9.0], [4.0, 9.0, 9.0, 9.0], [9.0] * 4, [2.0, 2.0, 0.0, 4.0]])
SUMS = torch.tensor([9.0, 4.0, 0.0, 8.0])
MAX_LENGTH = 10
EXPECTED = {
    "token": (9 + 4 + 8) / 8,
    "sequence": (9 / 3 + 4 / 1 + 0 + 8 / 4) / 4,
    "constant": (9 + 4 + 8) / (4 * MAX_LENGTH),
    "sum": (9 + 4 + 8) / 4,
}


@EVERY
def test_the_definition(how):
    """Completions of 3, 1, 0 and 4 tokens with sums 9, 4, 0 and 8; values outside the mask are not read."""
    found = aggregation.aggregate(LOSSES.masked_fill(~MASK, torch.nan), MASK, how, max_length=MAX_LENGTH)
    assert found.item() == pytest.approx(EXPECTED[how])
    assert aggregation.aggregate(SUMS, MASK, how, max_length=MAX_LENGTH).item() == pytest.approx(EXPECTED[how])


@EVERY
@pytest.mark.parametrize("size", [1, 2])
def test_the_mean_over_micro_batches_is_that_of_the_step(how, size):
    """With the mean length of the step. That of each micro-batch is TRL's `bnpo`, which depends on the cut."""
    numbers = {"mean_length": MASK.sum() / len(MASK), "max_length": MAX_LENGTH}
    parts = zip(LOSSES.split(size), MASK.split(size), strict=True)
    found = [aggregation.aggregate(losses, mask, how, **numbers) for losses, mask in parts]
    assert torch.stack(found).mean().item() == pytest.approx(EXPECTED[how])


@EVERY
def test_the_weights_are_those_of_the_completions_sums(how):
    weights = aggregation.weights(MASK, how, mean_length=2.0, max_length=MAX_LENGTH)
    expected = {"token": [0.5] * 4, "sequence": [1 / 3, 1, 1, 0.25], "constant": [0.1] * 4, "sum": [1.0] * 4}
    assert weights.tolist() == pytest.approx(expected[how])


@EVERY
def test_a_step_without_any_token(how):
    mask = torch.zeros_like(MASK)
    assert aggregation.aggregate(LOSSES, mask, how, max_length=MAX_LENGTH).item() == 0


def test_unknown_and_incomplete_settings():
    with pytest.raises(ValueError, match="no loss aggregation 'mean': choose one of token, sequence, constant, sum"):
        aggregation.aggregate(LOSSES, MASK, "mean")
    with pytest.raises(ValueError, match="divides by a constant length, so `max_length` is needed"):
        aggregation.aggregate(LOSSES, MASK, "constant")
