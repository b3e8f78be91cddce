"""Columns under other names: the mapping, and the help when there is none."""

import pytest
from datasets import Dataset

from tests.data.rows import PLAIN, TRIPLES, assistant, user
from trl_ext import data
from trl_ext.support.errors import UserError

OTHER = [{"question_text": q, "good": g, "bad": b, "n": i} for i, (q, g, b) in enumerate(TRIPLES)]
MAPPING = {"prompt": "question_text", "chosen": "good", "rejected": "bad"}


def test_mapping():
    dataset, report = data.load(Dataset.from_list(OTHER), columns=MAPPING)
    assert dataset.to_list() == [{"prompt": q, "chosen": g, "rejected": b} for q, g, b in TRIPLES]
    assert report.ignored == ("n",) and "Columns not used: n." in report.sentences()


def test_mapped_columns_are_recognised_like_any_other():
    rows = [
        {"better": f"\n\nHuman: {q}\n\nAssistant: {g}", "worse": f"\n\nHuman: {q}\n\nAssistant: {b}"}
        for q, g, b in TRIPLES
    ]
    dataset, report = data.load(Dataset.from_list(rows), columns={"chosen": "better", "rejected": "worse"})
    assert report.format == "hh"
    assert dataset[0]["prompt"] == [user(TRIPLES[0][0])]
    rows = [
        {"dialogue": [user(q), assistant(g)], "verdict": "good" if i else "bad"} for i, (q, g, _) in enumerate(TRIPLES)
    ]
    report = data.load(Dataset.from_list(rows), columns={"messages": "dialogue", "label": "verdict"}).report
    assert report.format == "sharegpt" and report.desirable == 1


def test_mapping_may_swap_and_may_replace():
    swapped = data.load(Dataset.from_list(PLAIN), columns={"chosen": "rejected", "rejected": "chosen"}).dataset
    assert swapped.to_list() == [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in PLAIN]
    rows = [{**row, "better_prompt": "!"} for row in PLAIN]
    assert data.load(Dataset.from_list(rows), columns={"prompt": "better_prompt"}).dataset["prompt"][:] == [
        "!",
        "!",
    ]


def test_every_wrong_entry_is_named():
    with pytest.raises(UserError) as error:
        data.load(Dataset.from_list(OTHER), columns={"prompd": "n", "chosen": "goof", "rejected": "n"})
    assert len(error.value.problems) == 3
    assert "`prompd` is not a known name (did you mean `prompt`?)" in error.value.problems[0]
    assert "has no column `goof` for `chosen` (did you mean `good`?)" in error.value.problems[1]
    assert "column `n` is used twice" in error.value.problems[2]


def test_unknown_columns_get_the_lines_to_add(write):
    with pytest.raises(UserError) as error:
        data.load(write("other.jsonl", OTHER))
    message = str(error.value)
    assert "other.jsonl has the columns question_text, good, bad, n, which are not recognised" in message
    assert "dataset_columns:\n  prompt: question_text\n  chosen: good\n  rejected: bad" in message
    # The lines that are suggested work.
    lines = message.split("dataset_columns:\n")[1].splitlines()
    assert data.load(Dataset.from_list(OTHER), columns=dict(line.split(": ") for line in map(str.strip, lines)))


def test_unknown_columns_of_single_answers():
    with pytest.raises(UserError, match="prompt: query\n  completion: response\n  label: liked"):
        data.load(Dataset.from_list([{"query": "q", "response": "r", "liked": True}]))
    with pytest.raises(UserError, match="prompt: <its column>"):
        data.load(Dataset.from_list([{"a": "q", "b": "r"}]))


def test_a_rating_is_not_suggested_as_a_label():
    rows = [{"prompt": "q", "response": "r", "rating": rating} for rating in (1, 4, 5)]
    with pytest.raises(UserError) as error:
        data.load(Dataset.from_list(rows))
    said = str(error.value)
    assert "label: rating" not in said and "one completion with ratings (`rating`)" in said
    assert 'rows["rating"] >= 4`. Then write `dataset_columns: {completion: response}`.' in said
    # What it says works.
    pandas_rows = Dataset.from_list(rows).to_pandas()
    pandas_rows["label"] = pandas_rows["rating"] >= 4
    dataset = data.load(Dataset.from_pandas(pandas_rows), columns={"completion": "response"}).dataset
    assert dataset["label"][:] == [False, True, True]
    # So does the other way.
    grouped = Dataset.from_list([*rows, {"prompt": "q", "response": "s", "rating": 9}]).to_pandas()
    grouped = grouped.groupby("prompt").agg(responses=("response", list), scores=("rating", list)).reset_index()
    dataset = data.load(Dataset.from_pandas(grouped)).dataset
    assert dataset.to_list() == [{"prompt": "q", "chosen": "s", "rejected": "r"}]
    with pytest.raises(UserError, match="label: rating"):
        data.load(Dataset.from_list([{**row, "rating": int(row["rating"] > 2)} for row in rows]))


def test_two_answers_of_other_names_get_the_lines_to_add():
    rows = [{"q": "q", "human_ref_A": "yes", "human_ref_B": "no", "score_A": 7, "score_B": 2}]
    with pytest.raises(UserError) as error:
        data.load(Dataset.from_list(rows))
    lines = str(error.value).split("dataset_columns:\n")[1].splitlines()
    columns = dict(line.split(": ") for line in map(str.strip, lines)) | {"prompt": "q"}
    assert data.load(Dataset.from_list(rows), columns=columns).dataset[0] == {
        "prompt": "q", "chosen": "yes", "rejected": "no",
    }  # fmt: skip


def test_right_columns_with_wrong_things_in_them():
    with pytest.raises(UserError, match="`chosen` holds values of type int"):
        data.load(Dataset.from_list([{"prompt": "q", "chosen": 1, "rejected": 2}]))
    with pytest.raises(
        UserError,
        match=r"`chosen` holds values of type list: neither text nor messages\. Write .* a list of messages\.$",
    ):
        data.load(Dataset.from_list([{"prompt": "q", "chosen": ["a", "b"], "rejected": "c"}]))
    with pytest.raises(UserError, match="Null in every sampled row: `chosen`, `rejected`"):
        data.load(Dataset.from_list([{"chosen": None, "rejected": None}]))


def test_format_can_be_insisted_on():
    with pytest.raises(UserError, match=r"which do not fit `dataset_format: alpaca`.* needs instruction"):
        data.load(Dataset.from_list(PLAIN), format="alpaca")
    with pytest.raises(
        UserError, match=r"`sharegtp` is not a format \(did you mean `sharegpt`\?\)\. Allowed are auto"
    ):
        data.load(Dataset.from_list(PLAIN), format="sharegtp")
    assert data.load(Dataset.from_list(PLAIN), format="trl").report.format == "trl"
