"""Packed rows against plain forwards of separate sequences and of a padded batch, over model families."""

import pytest
import torch

from tests.batching.helpers import (
    FAMILIES,
    alone,
    build,
    configuration,
    family,
    gradient,
    in_a_padded_batch,
    in_one_row,
    trees,
)
from trl_ext.batching import attention
from trl_ext.batching.packed import Tree, pack

WEIGHTS = torch.tensor([1.0, -1.0, 0.5, 2.0, -0.3, 1.0])[:, None]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "checkpointed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_values_and_gradients_are_those_of_separate_sequences(name, checkpointing):
    model = family(name)
    separate, padded = alone(model, trees()), in_a_padded_batch(model, trees())
    expected = gradient(model, (separate * WEIGHTS).sum())
    attention.switch(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    together = in_one_row(model, pack(trees()))
    assert torch.allclose(together, separate, rtol=0, atol=1e-5), (together - separate).abs().max()
    assert torch.allclose(together, padded, rtol=0, atol=1e-5), (together - padded).abs().max()
    found = gradient(model, (together * WEIGHTS).sum())
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_positions_that_depend_on_the_longest_sequence_follow_the_row_as_they_follow_a_batch():
    """Phi-3's long context takes other frequencies for a whole batch as soon as one of its sequences is long."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 12, **factors}
    model = build(configuration("phi3", rope_parameters=rope, original_max_position_embeddings=12)).eval()
    short, long = Tree([5, 6, 7], [[8, 9]]), Tree([5] * 9, [[8, 9, 10, 11, 12, 13]])
    with torch.no_grad():
        separate, padded = alone(model, [short, long]), in_a_padded_batch(model, [short, long])
        attention.switch(model)
        together = in_one_row(model, pack([short, long]))
        by_itself = in_one_row(model, pack([short]))
    assert torch.allclose(together, padded, rtol=0, atol=1e-5)
    assert torch.allclose(by_itself, separate[:1, :2], rtol=0, atol=1e-5)
    assert (padded[0] - separate[0]).abs().max() > 1e-3  # so this is the batch's doing, not the row's


def test_an_ordinary_batch_is_untouched_by_the_switch():
    model = family("llama").eval()
    ids = torch.randint(4, 97, (2, 11))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    before = model(ids, attention_mask=mask).logits
    attention.switch(model)
    assert torch.equal(model(ids, attention_mask=mask).logits, before)
