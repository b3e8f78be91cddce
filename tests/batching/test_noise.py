"""The noise of NEFTune has the standard deviation α/√(3·L·d) of a uniform distribution in ±α/√(L·d)."""

import pytest
import torch
from torch import nn

from trl_ext.batching import noise
from trl_ext.batching.packed import Tree, pack

ALPHA, SIZE = 5.0, 256


def drawn(lengths, ids, *, is_training=True):
    """Noise on the embeddings of token ids (S, T)."""
    embeddings = nn.Embedding(10, SIZE).train(is_training)
    with torch.no_grad(), noise.noisy(embeddings, ALPHA), noise.of_lengths(lambda: lengths):
        return embeddings(ids) - embeddings.weight[ids]


def test_the_lengths_of_a_packed_row():
    """Counted by hand: a prompt of 3 with completions of 2 and 7 tokens, and a prompt of 1 with a completion of 4."""
    row = pack([Tree([1, 2, 3], [[4, 5], [4, 5, 6, 7, 8, 9, 1]]), Tree([1], [[2, 3, 4, 5]])])
    shared = 2 / (1 / 5 + 1 / 10)
    expected = [shared] * 2 + [5.0] * 3 + [10.0] * 8 + [5.0] * 5
    assert noise.lengths_in(row.layout)[0].tolist() == pytest.approx(expected)


def test_each_sequence_has_the_noise_of_its_own_length():
    torch.manual_seed(0)
    lengths = torch.tensor([[4], [64]])
    found = drawn(lengths, torch.zeros(2, 64, dtype=torch.long))
    for values, length in zip(found, (4, 64), strict=True):
        bound = ALPHA / (length * SIZE) ** 0.5
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
        assert 0.99 * bound < values.abs().max().item() <= bound * (1 + 1e-5)  # rounding of the sum


def test_the_prompt_that_two_sequences_share_has_the_mean_of_their_variances():
    torch.manual_seed(0)
    row = pack([Tree([1] * 201, [[2] * 20, [3] * 400])])
    found = drawn(noise.lengths_in(row.layout), row.input_ids)[0]
    expected = sum(ALPHA**2 / (3 * length * SIZE) for length in (221, 601)) / 2
    assert found[:200].var().item() == pytest.approx(expected, rel=0.03)


def test_evaluation_has_no_noise_and_it_ends_with_its_context():
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert not drawn(torch.tensor([[4]]), ids, is_training=False).any()
    embeddings = nn.Embedding(10, SIZE).train()
    with noise.noisy(embeddings, ALPHA):
        pass
    assert torch.equal(embeddings(ids), embeddings.weight[ids])
