"""Floors of a step, against arithmetic done by hand."""

import pytest

from trl_ext.planner import cards, counting
from trl_ext.planner.cards import CARDS, Passes
from trl_ext.planner.memory import Row, Storage
from trl_ext.planner.models import MODELS

LLAMA = counting.count(MODELS["meta-llama/Llama-3.1-8B"], 16)
BY_NAME = {card.name: card for card in CARDS}


def seconds(checkpointed=0, references=1, share=1.0):
    row, passes = Row(4096, share), Passes(references, 0)
    return cards.step_seconds(BY_NAME["RTX 4090"], LLAMA, row, Storage(), checkpointed, row.tokens, passes)


def test_a_step_by_hand():
    # Forward, backward and reference over 6.98e9 weights; over a head of 128256 · 4096 also its second computation in
    # the backward pass; LoRA's own forward, and backward to inputs and weights.
    operations = 2 * 6_979_321_856 * 3 + 2 * 128_256 * 4096 * 4 + 2 * 41_943_040 * 3
    read_and_written = 3 * (0.51588 + 2) * 6_979_321_856
    assert seconds() == pytest.approx(4096 * operations / 165.2e12 + read_and_written / 1008e9, rel=1e-4)


def test_a_critic_and_its_values_by_hand():
    """A second forward and backward pass of the layers and of the second adapter, and half a pass: values for two epochs."""
    row, passes = Row(4096, 1.0), Passes(0, 0, headless=0.5, trained=2)
    found = cards.step_seconds(BY_NAME["RTX 4090"], LLAMA, row, Storage(), 0, row.tokens, passes)
    operations = 2 * 6_979_321_856 * (2 * 2 + 0.5) + 2 * 128_256 * 4096 * 3 + 2 * 2 * 41_943_040 * 3
    read_and_written = (2 * 2 + 0.5) * (0.51588 + 2) * 6_979_321_856
    assert found == pytest.approx(4096 * operations / 165.2e12 + read_and_written / 1008e9, rel=1e-4)


def test_recomputing_everything_is_one_more_forward_pass():
    more = seconds(checkpointed=32) - seconds()
    adapter = 2 * 41_943_040 * 4096 / 165.2e12
    assert more - adapter == pytest.approx(seconds(references=2, share=0) - seconds(share=0), rel=1e-9)


@pytest.mark.parametrize("card", ["RTX 3090", "RTX 4090"])
def test_dequantising_takes_65_to_95_ms_a_step(card):
    assert 0.065 < 4 * cards.dequantisation_bytes(LLAMA, Storage()) / BY_NAME[card].bandwidth < 0.095


def test_short_rows_dequantise_more_often():
    def rows(length):
        return cards.step_seconds(BY_NAME["RTX 4090"], LLAMA, Row(length), Storage(), 0, 8192, Passes(0, 0))

    once = 2 * cards.dequantisation_bytes(LLAMA, Storage()) / 1008e9
    assert rows(1024) - rows(4096) == pytest.approx((8 - 2) * once)


def test_only_active_experts_are_multiplied():
    dense_like = counting.count(MODELS["Qwen/Qwen3-30B-A3B"], 16)
    # 3.35 billion active weights are published; embedding and head are 0.62 of them.
    assert dense_like.active + dense_like.embedding + dense_like.head == pytest.approx(3.353e9, rel=0.01)
