"""Halves of batches, cut by hand."""

import pytest
import torch

from trl_ext.trainers.common.input_batches import first_half, tokens

PADDED = {
    "input_ids": torch.arange(12).view(3, 4),
    "attention_mask": torch.ones(3, 4, dtype=torch.long),
    "labels": -torch.arange(12).view(3, 4),
}
PAIRS = {"input_ids": torch.arange(18).view(6, 3), "margin": torch.tensor([1.0, 2.0, 3.0])}
PADDING_FREE = {  # sequences of 3, 2 and 4 tokens
    "input_ids": torch.arange(9)[None],
    "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 3]]),
    "seq_idx": torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]], dtype=torch.int32),
    "cu_seq_lens_q": torch.tensor([0, 3, 5, 9], dtype=torch.int32),
    "max_length_q": 4,
}


@pytest.mark.parametrize(
    ("batch", "sequences", "expected"),
    [
        (PADDED, 1, {"input_ids": [[0, 1, 2, 3]], "attention_mask": [[1, 1, 1, 1]], "labels": [[0, -1, -2, -3]]}),
        # The chosen completion of the first pair, and the rejected one.
        (PAIRS, 2, {"input_ids": [[0, 1, 2], [9, 10, 11]], "margin": [1.0]}),
        ({name: value[:1] for name, value in PADDED.items()}, 1, {"input_ids": [[0, 1]], "labels": [[0, -1]]}),
        ({"input_ids": torch.arange(6).view(2, 3), "margin": torch.tensor([1.0])}, 2, {"input_ids": [[0], [3]], "margin": [1.0]}),
        (
            PADDING_FREE,
            1,
            {"input_ids": [[0, 1, 2, 3]], "position_ids": [[0, 1, 2, 0]], "seq_idx": [[0, 0, 0, 1]], "cu_seq_lens_q": [0, 3, 4]},
        ),
        ({"input_ids": torch.tensor([[7]])}, 1, {"input_ids": [[7]]}),
    ],
    ids=["padded", "pairs", "one example", "one pair", "padding-free", "one token"],
)  # fmt: skip
def test_the_first_half(batch, sequences, expected):
    half = first_half(batch, sequences)
    assert half.keys() == batch.keys()
    assert {name: half[name].tolist() for name in expected} == expected
    assert all(half[name].dtype == batch[name].dtype for name in expected)
    assert tokens(half) == torch.tensor(expected["input_ids"]).numel()


def test_other_values_stay():
    assert first_half(PADDING_FREE, 1)["max_length_q"] == 4
