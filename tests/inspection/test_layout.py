"""Tokens of padded and packed batches, counted against the batches themselves; and the example that is shown."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from trl_ext import demo
from trl_ext.batching.packed import Tree, pack_joined
from trl_ext.inspection import layout, rendering
from trl_ext.inspection.facts import gather
from trl_ext.inspection.truncation import Limits
from trl_ext.methods import METHODS

LIMIT = 20
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


@pytest.fixture(scope="module")
def rows():
    rng = random.Random(0)
    return [{name: [rng.randint(5, 90) for _ in range(rng.randint(1, 15))] for name in COLUMNS} for _ in range(24)]


def args(**changes):
    return SimpleNamespace(
        **{"per_device_train_batch_size": 1, "gradient_accumulation_steps": 24, "seed": 0, "packing": True}
        | {"row_tokens": "auto"}
        | changes
    )


def compared(rows, limits=None, **changes):
    dataset = Dataset.from_list(rows)
    facts = gather(METHODS["paired"], dataset, limits or Limits(LIMIT), {1})
    return layout.compare(facts, dataset, args(**changes))


def padded(rows, keep="keep_start"):
    return DataCollatorForPreference(pad_token_id=0, max_length=LIMIT, truncation_mode=keep)(rows)["input_ids"].numel()


def test_padded_batches_are_as_large_as_trls(rows):
    # Whatever the order: one pair to a micro-batch, or all of them in one.
    assert compared(rows).trl == sum(padded([row]) for row in rows)
    assert compared(rows, per_device_train_batch_size=24, gradient_accumulation_steps=1).trl == padded(rows)


def test_packed_rows_are_as_large_as_ours(rows):
    trees = [
        Tree(row["prompt_ids"], [row[name][: LIMIT - len(row["prompt_ids"])] for name in COLUMNS[1:]]) for row in rows
    ]
    found = compared(rows)
    assert found.here == pack_joined(trees).input_ids.numel() and found.is_packed
    assert found.tokens == sum(len(t.prompt) + len(c) for t in trees for c in t.completions)
    # Equal prompts of a step are laid out once.
    assert compared([rows[0]] * 24).here == trees[0].tokens


def test_where_rows_are_not_packed(rows):
    found = compared(rows, Limits(LIMIT, keep_end=True), row_tokens=1)
    assert not found.is_packed and found.here == sum(padded([row], "keep_end") for row in rows)


@pytest.mark.parametrize("keep_end", [False, True])
def test_the_parts_of_an_example_are_all_of_its_tokens(keep_end):
    tokenizer = AutoTokenizer.from_pretrained(str(demo.MODEL))
    prompt, answer = tokenizer("what film?")["input_ids"], tokenizer("a great\x1b[31m film<|end|>")["input_ids"]
    dataset = Dataset.from_list([dict(zip(COLUMNS, (prompt, answer, answer[-1:]), strict=True))])
    limit = len(prompt) + 2
    facts = gather(METHODS["paired"], dataset, Limits(limit, keep_end), {tokenizer.eos_token_id})
    shown = rendering.render(facts, dataset, 0, tokenizer)
    roles = [(part.role, part.tokens) for part in shown["chosen"]]
    surplus = len(prompt) + len(answer) - limit
    if keep_end:
        rest = [("prompt", len(prompt) - surplus)] if surplus < len(prompt) else []
        assert roles == [("cut", surplus), *rest, ("learned", min(limit, len(answer)))]
    else:
        assert roles == [("prompt", len(prompt)), ("learned", 2), ("cut", surplus)]
    assert "".join(part.text for part in shown["chosen"]) == "what film?a great␛[31m film<|end|>"
    assert [part.role for part in shown["rejected"]] == ["prompt", "learned"]


def test_a_long_part_is_shown_in_part():
    tokenizer = AutoTokenizer.from_pretrained(str(demo.MODEL))
    ids = tokenizer("film " * 1000)["input_ids"]
    dataset = Dataset.from_dict({"input_ids": [ids], "labels": [[-100] * 3 + ids[3:]]})
    facts = gather(METHODS["sft"], dataset, Limits(None), {1})
    before, after = rendering.render(facts, dataset, 0, tokenizer)["completion"]
    assert (before.role, before.tokens, after.role, after.tokens) == ("prompt", 3, "learned", len(ids) - 3)
    assert len(after.text) == rendering.LONGEST + len(" […] ")
    assert np.array_equal(facts.kept["completion"], [len(ids) - 3])
