"""No prompt is trained on and evaluated on, whatever the seed; without repeats the split is that of `datasets`."""

import itertools

import numpy as np
import pytest
from datasets import Dataset, Features, Image

from trl_ext.data import holdout
from trl_ext.data.overlap import overlap


def rows(prompts):
    return Dataset.from_list(
        [{"prompt": p, "chosen": f"{p} good {i}", "rejected": "bad"} for i, p in enumerate(prompts)]
    )


@pytest.mark.parametrize("seed", range(5))
def test_prompts_stay_on_one_side(seed):
    prompts = np.random.default_rng(seed).integers(0, 40, 100).astype(str).tolist()
    split = holdout.hold_out(rows(prompts), 20, seed)
    train, held_out = ({prompts[row] for row in part} for part in (split.train, split.held_out))
    assert split.by_prompt and not train & held_out
    assert sorted([*split.train, *split.held_out]) == list(range(100)) and 10 <= len(split.held_out) <= 20
    again = holdout.hold_out(rows(prompts), 20, seed)
    assert all(np.array_equal(*parts) for parts in zip(split[:2], again[:2], strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_as_many_as_asked_for_where_it_can_be(seed):
    """Brute force over all sets of prompts says that 5 rows can be held out of groups of 1, 2, 3 and 4."""
    groups = [1, 2, 3, 4]
    assert any(sum(some) == 5 for n in range(5) for some in itertools.combinations(groups, n))
    prompts = [str(size) for size in groups for _ in range(size)]
    held_out = holdout.hold_out(rows(prompts), 5, seed).held_out
    sizes = {int(prompts[row]) for row in held_out}
    assert sum(sizes) == len(held_out) <= 5
    assert all(len(held_out) + other > 5 for other in groups if other not in sizes)  # none of the others has room


@pytest.mark.parametrize("size", [1, 7, 29])
def test_without_repeats_it_is_the_split_of_datasets(size):
    data = rows([f"p{i}" for i in range(30)])
    split, theirs = holdout.hold_out(data, size, 3), data.train_test_split(test_size=size, seed=3)
    assert data.select(split.train).to_list() == theirs["train"].to_list()
    assert data.select(split.held_out).to_list() == theirs["test"].to_list()


def test_conversations_with_one_prompt_stay_together():
    data = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"q{i % 10}"}], "completion": str(i), "label": True}
            for i in range(30)
        ]
    )
    split = holdout.hold_out(data, 6, 0)
    assert {row % 10 for row in split.held_out}.isdisjoint({row % 10 for row in split.train})
    assert len(split.held_out) == 6


def test_with_too_few_prompts_the_same_rows_stay_together():
    data = Dataset.from_list([{"prompt": "", "chosen": str(i // 2), "rejected": "bad"} for i in range(20)])
    split = holdout.hold_out(data, 6, 0)
    assert not split.by_prompt and len(split.held_out) == 6
    assert {row // 2 for row in split.held_out}.isdisjoint({row // 2 for row in split.train})


def test_without_prompts_the_same_rows_stay_together():
    split = holdout.hold_out(Dataset.from_dict({"text": [str(i // 2) for i in range(20)]}), 6, 0)
    assert not split.by_prompt and {row // 2 for row in split.held_out}.isdisjoint({row // 2 for row in split.train})


def test_prompts_do_not_identify_rows_with_images():
    data = Dataset.from_dict({"prompt": ["what is it?"] * 6, "image": [None] * 6}, features=None)
    data = data.cast(Features({**data.features, "image": Image()}))
    assert len(holdout.hold_out(data, 2, 0).held_out) == 2
    assert overlap(data, data) == (0, 0)
