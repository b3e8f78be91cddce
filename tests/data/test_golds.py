"""The column `gold`: in the form of the chosen completions, without the prompt, and named where nothing reads it."""

import pytest
from datasets import Dataset, Features, Json, List

from tests.data.rows import CONVERSATIONAL, PLAIN
from trl_ext import data, demo
from trl_ext.data import gold_tokens, golds
from trl_ext.demo import grammar
from trl_ext.demo.columns import with_columns
from trl_ext.support.errors import UserError

ANSWER = [{"role": "assistant", "content": "the best"}]


def gold_of(rows, value):
    loaded = data.load(Dataset.from_list([{**row, "gold": value(row)} for row in rows]))
    found, said = golds.required(loaded, "tpo")
    assert said == ["the given dataset (train): the loss also learns from the completions in `gold`."]
    return found.dataset["gold"][:]


@pytest.mark.parametrize("value", [lambda row: "the best", lambda row: row["prompt"] + "the best"])
def test_beside_text(value):
    assert gold_of(PLAIN, value) == ["the best"] * len(PLAIN)


@pytest.mark.parametrize("value", [lambda row: ANSWER, lambda row: [*row["prompt"], *ANSWER]])
def test_beside_messages(value):
    assert gold_of(CONVERSATIONAL, value) == [ANSWER] * len(CONVERSATIONAL)


def test_text_beside_messages_is_a_turn():
    assert gold_of(CONVERSATIONAL, lambda row: "the best") == [ANSWER] * len(CONVERSATIONAL)


def test_turns_keep_what_no_chosen_turn_has(tiny_model):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
    thought = {"role": "assistant", "content": "the best", "reasoning_content": "a thought"}
    called = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "found", "name": "look"},
        {"role": "assistant", "content": "it"},
    ]
    turns = iter([ANSWER, [thought], called] * 9)
    given = [next(turns) for _ in CONVERSATIONAL * 3]
    rows = [{**row, "gold": gold} for row, gold in zip(CONVERSATIONAL * 3, given, strict=True)]
    features = Features({**Dataset.from_list(CONVERSATIONAL).features, "gold": List(Json())})
    loaded, _ = golds.required(data.load(Dataset.from_list(rows, features=features)), "tpo")
    assert loaded.dataset["gold"][:] == given

    seen = []

    def tokenised(pairs):
        seen.append(pairs["rejected"][:])
        return pairs.map(lambda row: {name: [1] for name in gold_tokens.PAIR})

    gold_tokens.tokenise(loaded.dataset, tokenised)
    assert seen[1] == given  # what the chat template is given in place of the rejected turns


@pytest.mark.parametrize(
    ("rows", "value", "given"),
    [
        (PLAIN, None, "empty"),
        (PLAIN, "", "empty"),
        (CONVERSATIONAL, [{"role": "user", "content": "why?"}], "neither text nor a conversation that ends"),
    ],
)
def test_one_that_cannot_be_read_is_named_with_its_row(write, rows, value, given):
    written = [{**rows[0], "chosen": None, "gold": value}, {**rows[0], "gold": value}]
    loaded = data.load(write("pairs.jsonl", written))  # the first row is dropped
    with pytest.raises(UserError, match=rf"The `gold` in row 1 of pairs\.jsonl \(train\) is {given}"):
        golds.required(loaded, "tpo")


def test_where_it_is_missing_or_not_read():
    with pytest.raises(
        UserError, match=r"no column `gold`, and the loss tpo reads it.*dataset_columns: \{gold: reference\}"
    ):
        golds.required(data.load(Dataset.from_list(PLAIN)), "tpo")
    loaded = data.load(
        Dataset.from_list([{**row, "reference": "best", "margin": 1.0} for row in PLAIN]),
        columns={"gold": "reference"},
    )
    assert golds.without(loaded).dataset.column_names == ["prompt", "chosen", "rejected", "margin"]
    unpaired = data.unpair(loaded)
    assert "gold" not in unpaired.dataset.column_names
    assert "`tpo` and `tpo_l` read `gold`" in " ".join(unpaired.report.sentences())


def test_the_demo_has_both_from_its_known_reward():
    pairs = data.load(str(demo.DATA), split="test").dataset.select(range(20))
    found = with_columns(pairs, ("margin", "gold"))
    for row in found:
        chosen, rejected, gold = (row[side][0]["content"] for side in ("chosen", "rejected", "gold"))
        assert row["margin"] == grammar.reward(chosen) - grammar.reward(rejected) > 0
        assert grammar.reward(gold) == 1 == grammar.fluency(gold, thing=grammar.thing_of(row["prompt"][0]["content"]))
    assert with_columns(pairs, ("gold",))["gold"][:] == found["gold"][:]
