"""Columns whose type or keys change after the rows that `datasets` looks at: every row is read as it is written."""

import datasets
import pytest
from datasets import Dataset

from tests.data.rows import CONVERSATIONAL, PLAIN
from trl_ext import data
from trl_ext.data.files import json_types
from trl_ext.data.files.json_types import merged, type_of
from trl_ext.data.recognise_file import recognise_file
from trl_ext.support.errors import UserError

ROW, OTHER = PLAIN[0], PLAIN[1]
TALK = CONVERSATIONAL[0]
SINGLE = {"prompt": "q", "completion": "a"}
PADDING = "x" * 2**20
KEPT = [ROW, OTHER]


def assistant(content, **more):
    return [{"role": "assistant", "content": content, **more}]


LATE = {
    "null, then text": ({**ROW, "chosen": None}, OTHER),
    "a column of nulls that is not read": ({**ROW, "n": None}, {**OTHER, "n": "x"}),
    "a key that only late rows have": (ROW, {**OTHER, "n": {"a": 1}}),
    "a number, then text": ({**ROW, "n": 1}, {**OTHER, "n": "one"}),
    "objects with other keys": ({**ROW, "n": {"a": 1}}, {**OTHER, "n": {"a": "x", "b": [1]}}),
    "labels of two types": ({**SINGLE, "label": True}, {**SINGLE, "label": "bad"}),
    "text, then a message": (ROW, {**OTHER, "chosen": assistant(OTHER["chosen"])[0]}),
    "text, then messages": (ROW, {**OTHER, "chosen": assistant(OTHER["chosen"])}),
    "a message with another key": (TALK, {**TALK, "chosen": assistant("fine", name="Ann")}),
    "messages of parts": (TALK, {**TALK, "chosen": assistant([{"type": "text", "text": "fine"}])}),
}


def last_text(row):
    """The text of the last completion, whatever holds it."""
    value = row.get("chosen", row.get("completion"))
    return value if isinstance(value, str) else "".join(
        part["content"] if isinstance(part["content"], str) else part["content"][0]["text"] for part in value
    )  # fmt: skip


def expected(early, late):
    """The text of the completion of the late row, from the row itself."""
    value = late.get("chosen", late.get("completion"))
    return last_text({"chosen": [value] if isinstance(value, dict) else value})


@pytest.mark.parametrize(("early", "late"), LATE.values(), ids=LATE)
def test_late_in_a_file(write, early, late):
    rows = [{**early, "padding": PADDING} for _ in range(12)] + [{**late, "padding": ""}]
    loaded = data.load(write("rows.jsonl", rows), training=False)
    assert last_text(loaded.dataset[-1]) == expected(early, late)
    dropped = 12 if early.get("chosen", "") is None else 0
    assert len(loaded.dataset) == 13 - dropped
    if "label" in early:
        assert loaded.dataset["label"][:] == 12 * [True] + [False]


@pytest.mark.parametrize(("early", "late"), LATE.values(), ids=LATE)
def test_in_the_second_file_of_a_folder(write, early, late):
    write("folder/a.jsonl", [early, early])
    path = write("folder/b.jsonl", [late]).parent
    loaded = data.load(path, training=False)
    assert last_text(loaded.dataset[-1]) == expected(early, late)
    assert len(loaded.dataset) == (1 if early.get("chosen", "") is None else 3)


def test_files_of_another_split_do_not_matter(write):
    write("folder/train.jsonl", [ROW, OTHER])
    path = write("folder/test.jsonl", [{**ROW, "chosen": assistant("x"), "n": 1}]).parent
    assert data.load(path).dataset.to_list() == KEPT
    assert data.load(path, split="train[:1]").dataset.to_list() == [ROW]
    assert last_text(data.load(path, split="test").dataset[0]) == "x"


def test_tables_of_a_folder_may_have_other_columns_and_are_text(write):
    write("folder/a.csv", [{**ROW, "n": "1", "chosen": "42"}])
    path = write("folder/b.csv", [{**OTHER, "m": "x", "chosen": "NA"}]).parent
    loaded = data.load(path)
    assert loaded.dataset["chosen"][:] == ["42", "NA"]
    assert data.load(path, split="train[1:]").dataset["chosen"][:] == ["NA"]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({**OTHER, "chosen": [1]}, "Column `chosen` has the type list<element: int64> in b.parquet and string in a.parquet"),
        ({**OTHER, "n": 1}, "b.parquet has a column `n`, and a.parquet has none"),
    ],
)  # fmt: skip
def test_parquet_files_that_differ_are_named_with_the_column(write, second, said):
    write("folder/a.parquet", [ROW])
    path = write("folder/b.parquet", [second]).parent
    with pytest.raises(UserError) as error:
        data.load(path)
    assert said in str(error.value) and "Write the files with the same columns and types" in str(error.value)


def test_a_folder_of_which_files_would_be_left_out(write):
    write("folder/a.jsonl", [ROW])
    path = write("folder/info.json", [ROW]).parent
    assert len(data.load(path).dataset) == 2
    write("folder/b.csv", [OTHER])
    with pytest.raises(
        UserError, match=r"folder holds files of several kinds.*a\.jsonl would be read and b\.csv would not"
    ):
        data.load(path)


def test_the_types_of_a_file_are_found_once(write, monkeypatch):
    path = write("rows.jsonl", [{**ROW, "padding": PADDING} for _ in range(12)] + [{**OTHER, "n": 1}])
    data.load(path)
    monkeypatch.setattr("trl_ext.data.json_features.types_of", None)
    assert len(data.load(path).dataset) == 13


def test_a_file_that_keeps_its_types_is_left_to_datasets(write, monkeypatch):
    monkeypatch.setattr("trl_ext.data.json_features.CHUNK", 100)
    monkeypatch.setattr(json_types, "CHUNK", 100)
    given = {}
    real = datasets.load_dataset
    monkeypatch.setattr("trl_ext.data.split_loading.load_dataset", lambda *a, **k: given.update(k) or real(*a, **k))
    data.load(write("rows.jsonl", 4 * [ROW, OTHER]))
    assert "features" not in given


def test_validate_reads_on_where_the_first_rows_are_null(write):
    nulls = [dict.fromkeys(ROW) for _ in range(100)]
    assert recognise_file(write("rows.jsonl", [*nulls, OTHER])).format == "trl"
    assert recognise_file(write("more.jsonl", 50 * nulls)) is None  # only loading tells
    with pytest.raises(UserError, match="Null in every sampled row: `prompt`, `chosen`"):
        recognise_file(write("few.jsonl", nulls))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, "a"], "str"),
        ([1, 0.5], "float"),
        ([1, True], "any"),
        ([1, "a"], "any"),
        ([2**70], "any"),
        ([[], ["a"]], ["list", "str"]),
        ([[None, 1], ["a"]], ["list", "any"]),
        ([{"a": 1}, {"b": None}, {"a": "x"}], ["struct", {"a": "any", "b": None}]),
        ([{}], "any"),
        ([{str(i): 1 for i in range(65)}], "any"),
    ],
)
def test_types(values, expected):
    found = None
    for value in values:
        found = merged(found, type_of(value))
    assert found == expected


def test_a_stream_of_files_that_differ(write):
    write("folder/a.jsonl", [ROW])
    path = write("folder/b.jsonl", [{**OTHER, "n": "x", "chosen": assistant("late")}]).parent
    rows = list(data.load(path, streaming=True).dataset)
    assert [last_text(row) for row in rows] == [ROW["chosen"], "late"]
    assert Dataset.from_list(rows).num_rows == 2
