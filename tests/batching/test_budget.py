"""The choice of row length and recomputed layers: optimal among all that fit, by trying them all."""

import itertools

import pytest

from trl_ext.batching.budget import DEQUANTISATION, LARGEST_ROW, STEP, Choice, Footprint, choose, in_words

KIB, GIB = 2**10, 2**30
LLAMA_8B = Footprint(stored=197 * KIB, checkpointed=8 * KIB, rest=60 * KIB, layers=32)


def time(tokens: int, count: int) -> float:
    return (6 + 2 * count / 32) * (1 + DEQUANTISATION / tokens)


@pytest.mark.parametrize("free", [1, 2, 3, 5, 8, 12, 16, 24, 60])
@pytest.mark.parametrize("longest", [100, 900, 2600])
def test_the_choice_fits_and_none_that_fits_is_faster(free, longest):
    choice = choose(LLAMA_8B, free * GIB, longest)
    fitting = [
        (tokens, count)
        for tokens, count in itertools.product(range(STEP, LARGEST_ROW + 1, STEP), range(33))
        if tokens >= longest and tokens * LLAMA_8B.peak(count) <= free * GIB
    ]
    if not fitting:
        assert choice.checkpointed_layers == 32 and choice.row_tokens >= longest
        return
    assert max(choice.row_tokens, longest) * LLAMA_8B.peak(choice.checkpointed_layers) <= free * GIB
    assert time(*choice) <= min(time(*pair) for pair in fitting) + 1e-9


def test_nothing_is_recomputed_where_memory_allows_and_only_what_is_needed_elsewhere():
    assert choose(LLAMA_8B, 80 * GIB, 600) == Choice(LARGEST_ROW, 0)
    tight = choose(LLAMA_8B, 12 * GIB, 2000, row_tokens=2048)
    assert 0 < tight.checkpointed_layers < 32
    assert 2048 * LLAMA_8B.peak(tight.checkpointed_layers) <= 12 * GIB
    assert 2048 * LLAMA_8B.peak(tight.checkpointed_layers - 1) > 12 * GIB


def test_what_is_given_is_kept():
    assert choose(LLAMA_8B, 16 * GIB, 600, row_tokens=777).row_tokens == 777
    assert choose(LLAMA_8B, 16 * GIB, 600, checkpointed_layers=32) == Choice(LARGEST_ROW, 32)
    assert choose(LLAMA_8B, 0.1 * GIB, 600, row_tokens=1024, checkpointed_layers=0) == Choice(1024, 0)
    assert choose(LLAMA_8B, 0, 600) == Choice(600, 32)


def test_an_example_longer_than_the_largest_row_gets_a_row_it_fits():
    assert choose(LLAMA_8B, 80 * GIB, 7000).row_tokens == 7000


def test_the_log_line():
    text = in_words(Choice(2048, 5), LLAMA_8B, 12 * GIB)
    assert text.startswith("at most 2,048 tokens, 5 of 32 layers are recomputed; about 10.7 GiB of 12 GiB")
    assert "no layer is recomputed" in in_words(Choice(512, 0), LLAMA_8B, 12 * GIB)
    assert "all 32 layers" in in_words(Choice(512, 32), LLAMA_8B, 12 * GIB)
