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
