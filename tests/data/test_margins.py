"""The column `margin`: read for reward models, as TRL's reward trainer does, and named where nothing reads it."""

import datasets
import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from tests.data.rows import CONVERSATIONAL, PLAIN
from trl_ext import data
from trl_ext.data import margins
from trl_ext.support.errors import UserError


@pytest.mark.parametrize("rows", [PLAIN, CONVERSATIONAL])
@pytest.mark.parametrize("values", [[0.5, 2.0], [1, -1]])
def test_conversion_keeps_it(rows, values):
    given = Dataset.from_list([{**row, "margin": value, "n": 1} for row, value in zip(rows, values, strict=False)])
    loaded = data.load(given)
    assert loaded.dataset["margin"][:] == values
    found, said = margins.as_numbers(loaded)
    assert found.dataset["margin"][:] == [float(value) for value in values]
    assert said == [
        f"the given dataset (train): `margin` is subtracted from the difference of rewards, as in TRL: from {min(values):g} to "
        f"{max(values):g}, mean {np.mean(values):.3g}."
    ]


def test_it_stays_beside_its_pair_where_rows_are_dropped(write):
    rows = [{**PLAIN[0], "margin": "1.5"}, {**PLAIN[0], "chosen": "", "margin": "2"}, {**PLAIN[1], "margin": "-3"}]
    loaded = data.load(write("pairs.csv", rows))  # an empty cell is null: its row is dropped; every cell is text
    found, _ = margins.as_numbers(loaded)
    assert found.dataset["margin"][:] == [1.5, -3.0]


def test_a_stream():
    def rows():
        yield from ({**row, "margin": 1} for row in PLAIN)

    features = datasets.Features(
        {**dict.fromkeys(PLAIN[0], datasets.Value("string")), "margin": datasets.Value("int64")}
    )
    found, said = margins.as_numbers(data.load(IterableDataset.from_generator(rows, features=features)))
    assert [row["margin"] for row in found.dataset] == [1.0] * len(PLAIN) and "is subtracted" in said[0]


@pytest.mark.parametrize(("value", "shown"), [("big", "'big'"), (None, "empty"), ("nan", "'nan'")])
def test_a_margin_that_is_no_number_is_named_with_its_row(write, value, shown):
    rows = [{**PLAIN[0], "chosen": None, "margin": "1"}, {**PLAIN[0], "margin": "1"}, {**PLAIN[1], "margin": value}]
    loaded = data.load(write("pairs.jsonl", rows))
    with pytest.raises(
        UserError, match=rf"The `margin` in row 2 of pairs\.jsonl \(train\) is {shown}, and a reward model"
    ):
        margins.as_numbers(loaded)


def test_where_nothing_reads_it_the_report_says_so():
    given = Dataset.from_list([{**row, "margin": 1.0, "n": 1} for row in PLAIN])
    loaded = margins.without(data.load(given))
    assert loaded.dataset.column_names == ["prompt", "chosen", "rejected"]
    assert (
        "Columns not used: n, margin (`trainer: reward` and losses such as `rpo` read `margin`)."
        in loaded.report.sentences()
    )
    unpaired = data.unpair(data.load(given))
    assert "margin" not in unpaired.dataset.column_names and "margin" in unpaired.report.ignored


def test_a_margin_of_another_name():
    given = Dataset.from_list([{**row, "gap": 2.0} for row in PLAIN])
    assert data.load(given, columns={"margin": "gap"}).dataset["margin"][:] == [2.0] * len(PLAIN)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, None], r"row 1 of `train_dataset` is empty"),
        ([None, None], r"row 0 of `train_dataset` is empty"),
        ([1.0, float("inf")], r"row 1 of `train_dataset` is inf"),
        (["1", "2"], r"has the type string, and the loss rpo reads numbers\. Convert it, as in `dataset\.cast_column"),
        ([True, False], r"has the type bool"),
        ([[1.0], [2.0]], r"has the type list"),
    ],
)
def test_a_trainer_is_not_made_with_margins_that_are_no_numbers(values, said):
    given = Dataset.from_dict({"prompt": ["a", "b"], "margin": values})
    with pytest.raises(ValueError, match=said):
        margins.refuse({"train_dataset": given}, "the loss rpo")
    with pytest.raises(ValueError, match=said.replace("train_dataset", "eval_dataset")):
        margins.refuse({"eval_dataset": {"a": given.select([])} | {"b": given}}, "the loss rpo")


def test_margins_that_a_trainer_can_read():
    for values in ([1, -2], [0.5, 1.5], []):
        margins.refuse({"train_dataset": Dataset.from_dict({"margin": values}), "eval_dataset": None}, "the loss rpo")
    shuffled = Dataset.from_dict({"margin": [None, 1.0, 2.0]}).select([2, 1])
    margins.refuse({"train_dataset": shuffled}, "the loss rpo")


@pytest.mark.parametrize("value", [None, "1", True, float("nan")])
def test_a_stream_is_checked_as_it_is_read(value):
    given = Dataset.from_list([{"prompt": "a", "margin": value}]).to_iterable_dataset()
    with pytest.raises(
        UserError, match=rf"The `margin` in a row of `train` is {'empty' if value is None else repr(value)}"
    ):
        next(iter(margins.watched(given, "train", "the loss rpo")))
    good = Dataset.from_list([{"prompt": "a", "margin": 1}, {"prompt": "b", "margin": -1}])
    assert list(margins.watched(good.to_iterable_dataset(), "train", "the loss rpo")) == list(good)
    without = good.remove_columns("margin")
    assert list(margins.watched(without.to_iterable_dataset(), "train", "a reward model")) == list(without)
