"""The length that keeps 95 % of the examples, counted by hand."""

import numpy as np
import pytest

from trl_ext.inspection.facts import Facts
from trl_ext.inspection.needed_length import needed_length
from trl_ext.inspection.truncation import Limits
from trl_ext.methods import METHODS


def facts(kind, limit, **lengths):
    arrays = {name: np.array(values, dtype=np.uint32) for name, values in lengths.items()}
    n = len(next(iter(arrays.values())))
    return Facts(METHODS[kind], Limits(limit), arrays, {}, {}, np.zeros(n, bool), {}, np.zeros(n, np.uint64), None)


def test_the_prompt_counts_with_its_longest_completion():
    # 20 pairs of 10 + max(5, i) tokens: 15 for i ≤ 5, else 10 + i; 19 of 20 are at most 10 + 18 = 28.
    pairs = facts("paired", 20, prompt=[10] * 20, chosen=[5] * 20, rejected=list(range(20)))
    assert (
        needed_length(pairs) == "`max_length: 28` would keep 95 % of the examples whole; now 55 % are."
    )  # i ≤ 10: 11


def test_a_reward_model_counts_the_prompt_in_its_completions():
    assert "`max_length: 30`" in needed_length(facts("reward", 20, chosen=[30] * 4, rejected=[25] * 4))


@pytest.mark.parametrize("kind", ["unpaired", "sft"])
def test_one_long_example_of_many(kind):
    lengths = {"prompt": [4] * 100, "completion": [6] * 99 + [60]}
    assert needed_length(facts(kind, 10, **lengths)) == (
        "99 % of the examples are whole; `max_length: 64` would keep every one."
    )
    assert needed_length(facts(kind, 64, **lengths)) is None
    assert needed_length(facts(kind, None, **lengths)) is None


def test_prompts_have_no_limit():
    assert needed_length(facts("ppo", None, prompt=[4, 400])) is None
