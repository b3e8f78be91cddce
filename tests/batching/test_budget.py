"""The choice of row length and recomputed layers: optimal among all that fit, by trying them all."""

import itertools

import pytest

from trl_ext.batching.budget import DEQUANTISATION, LARGEST_ROW, STEP, Footprint, Memory, in_words, row_length

KIB, GIB = 2**10, 2**30
LLAMA_8B = Footprint(stored=197 * KIB, checkpointed=8 * KIB, rest=60 * KIB, constant=0, layers=32)


def time(tokens: int, count: int) -> float:
    return (6 + 2 * count / 32) * (1 + DEQUANTISATION / tokens)


@pytest.mark.parametrize("free", [1, 2, 3, 4, 5, 8, 12, 16, 24, 60])
def test_the_choice_fits_and_none_that_fits_is_faster(free):
    memory = Memory(LLAMA_8B, free * GIB)
    tokens = row_length(memory)
    fitting = [
        time(length, count)
        for length, count in itertools.product(range(STEP, LARGEST_ROW + 1, STEP), range(33))
        if LLAMA_8B.peak(length, count) <= free * GIB
    ]
    count = memory.layers_to_checkpoint(tokens)
    assert LLAMA_8B.peak(tokens, count) <= free * GIB
    assert time(tokens, count) == pytest.approx(min(fitting))


def test_nothing_is_recomputed_where_a_row_fits_without_and_only_what_it_needs_elsewhere():
    memory = Memory(LLAMA_8B, 12 * GIB)
    count = memory.layers_to_checkpoint(3000)
    assert 0 < count < 32
    assert LLAMA_8B.peak(3000, count) <= 12 * GIB < LLAMA_8B.peak(3000, count - 1)
    assert memory.layers_to_checkpoint(1500) == 0  # a shorter row beside it
    assert Memory(LLAMA_8B, 80 * GIB).layers_to_checkpoint(LARGEST_ROW) == 0


def test_a_given_number_of_recomputed_layers_is_kept():
    memory = Memory(LLAMA_8B, 4 * GIB)
    assert row_length(memory, checkpointed_layers=0) == 512  # 4 GiB are 637 tokens of 6.4 MiB
    assert row_length(memory, checkpointed_layers=32) == LARGEST_ROW


def test_where_nothing_fits_rows_are_short_and_everything_is_recomputed():
    memory = Memory(LLAMA_8B, 0)
    assert row_length(memory) == STEP and memory.layers_to_checkpoint(STEP) == 32


def test_what_does_not_grow_with_the_row_is_counted_once():
    heavy = LLAMA_8B._replace(constant=3 * GIB)
    assert heavy.peak(1000, 4) - LLAMA_8B.peak(1000, 4) == 3 * GIB


def test_the_log_line():
    text = in_words(Memory(LLAMA_8B, 12 * GIB), 2048, None)
    count = Memory(LLAMA_8B, 12 * GIB).layers_to_checkpoint(2048)
    assert text.startswith(f"row_tokens 2,048, gradient checkpointing in {count} of 32 layers: about ")
    assert text.endswith("GiB of 12 GiB free for activations")
    assert "gradient checkpointing off" in in_words(Memory(LLAMA_8B, 12 * GIB), 512, None)
    assert "in all 32 layers" in in_words(Memory(LLAMA_8B, 0), 512, None)
    assert in_words(Memory(LLAMA_8B, 256), 512, None).endswith("of 256 B free for activations; this may not fit")
    assert "gradient checkpointing off" in in_words(Memory(LLAMA_8B._replace(layers=0), 12 * GIB), 512, 0)
