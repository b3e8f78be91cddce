"""Tables with other separators and JSON documents wrapped in a key are read as what they are."""

import gzip
import json

import pytest

from tests.data.rows import PLAIN
from trl_ext import data
from trl_ext.data.peek import peek
from trl_ext.data.separators import list_of_rows, other_separator
from trl_ext.support.errors import UserError


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables(separator, ending, tmp_path):
    path = tmp_path / f"rows.{ending}"
    table = [["prompt", "chosen", "rejected"], *([f'"{text}"' for text in row.values()] for row in PLAIN)]
    path.write_text("\n".join(separator.join(cells) for cells in table))
    assert data.load(path).dataset.to_list() == PLAIN
    match = peek(path)
    assert (match is None) if ending == "tsv" else match.paired


def test_a_quoted_header_and_one_column(tmp_path):
    (tmp_path / "rows.csv").write_text('"prompt";"chosen";"rejected"\n"a, b";"c";"d"\n')
    assert data.load(tmp_path / "rows.csv").dataset[0] == {"prompt": "a, b", "chosen": "c", "rejected": "d"}
    assert other_separator(["prompt"]) is None and other_separator(["a;b", "c"]) is None


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
@pytest.mark.parametrize("more", [{}, {"version": 1, "sources": ["x"]}])
def test_a_wrapped_list(name, more, tmp_path):
    path = tmp_path / name
    with (gzip.open if name.endswith("gz") else open)(path, "wt") as file:
        json.dump({**more, "data": PLAIN}, file)
    assert data.load(path).dataset.to_list() == PLAIN
    assert list(data.load(path, streaming=True).dataset) == PLAIN
    assert peek(path).paired


def test_messages_are_no_rows_and_two_lists_are_none(tmp_path):
    assert list_of_rows({"messages": [{"role": "user", "content": "q"}]}) is None
    assert list_of_rows({"train": PLAIN, "test": PLAIN}) is None
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in PLAIN))  # one object a line
    assert data.load(path).dataset.to_list() == PLAIN


def test_a_wrapped_list_in_lines_is_named(write):
    with pytest.raises(UserError, match="one row whose `data` lists the rows: write that list alone"):
        data.load(write("rows.jsonl", [{"data": PLAIN}]))
