"""JSON documents that wrap their rows in a key are read as their rows."""

import json

import pytest

from tests.data.conftest import COMPRESS
from tests.data.rows import PLAIN
from trl_ext import data
from trl_ext.data.files.wrapped_json import list_of_rows
from trl_ext.data.recognise_file import recognise_file
from trl_ext.support.errors import UserError


@pytest.mark.parametrize("ending", ["", *COMPRESS])
@pytest.mark.parametrize("more", [{}, {"version": 1, "sources": ["x"]}])
def test_a_wrapped_list(ending, more, tmp_path):
    path = tmp_path / f"rows.json{ending}"
    path.write_bytes(COMPRESS.get(ending, bytes)(json.dumps({**more, "data": PLAIN}).encode()))
    assert data.load(path).dataset.to_list() == PLAIN
    assert list(data.load(path, streaming=True).dataset) == PLAIN
    assert recognise_file(path).paired


def test_messages_are_no_rows_and_two_lists_are_none(tmp_path):
    assert list_of_rows({"messages": [{"role": "user", "content": "q"}]}) is None
    assert list_of_rows({"train": PLAIN, "test": PLAIN}) is None
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in PLAIN))  # one object a line
    assert data.load(path).dataset.to_list() == PLAIN


def test_a_wrapped_list_in_lines_is_named(write):
    with pytest.raises(UserError, match=r"a single row whose `data` is the list of rows. Write that list to a file"):
        data.load(write("rows.jsonl", [{"data": PLAIN}]))
