"""A look at a JSON file says what reading all of it with `datasets` says."""

import bz2
import gzip
import json
import lzma

import pytest

from trl_ext import data
from trl_ext.data import skim
from trl_ext.data.unreadable import why_unreadable
from trl_ext.support.errors import UserError

ROW = {"prompt": "p", "chosen": "good", "rejected": "bad"}
LINE = json.dumps(ROW)

IN_ORDER = {
    "lines": f"{LINE}\n{LINE}\n",
    "blank lines": f"\n{LINE}\n\n{LINE}\n",
    "a list": json.dumps([ROW, ROW]),
    "a list over lines": json.dumps([ROW, ROW], indent=1),
    "objects over lines": "\n".join([json.dumps(ROW, indent=1)] * 2),
    "two on a line": f"{LINE}\n{LINE}{LINE}\n",
    "a byte order mark": f"\ufeff{LINE}\n{LINE}\n",
    "null": f"{LINE}\nnull\n{LINE}\n",
}
BROKEN = {
    "cut off": (f"{LINE}\n{LINE[:-9]}\n{LINE}\n", "line 2 is not JSON"),
    "cut off before an object": (
        f'{LINE}\n{{"prompt": "p", "chosen":\n{LINE}\n',
        "line 2 is not JSON (Expecting value at column 26)",
    ),
    "a comma too much": (f"{LINE}\n{LINE},\n{LINE}\n", "line 2 is not JSON"),
    "a tab in a text": (
        "\n".join([LINE, LINE.replace("good", "go\tod"), ""]),
        "line 2 is not JSON (Invalid control character '\\t' at column 30)",
    ),
    "a number": (f"{LINE}\n5\n{LINE}\n", "line 2 holds no object"),
    "a list of numbers": (f"{LINE}\n[1]\n", "line 2 holds no object"),
    "a broken list": (json.dumps([ROW, ROW], indent=1)[:-4], "is not JSON"),
}


@pytest.mark.parametrize("case", IN_ORDER)
def test_what_can_be_read_is_in_order(case, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(IN_ORDER[case], encoding="utf-8")
    assert skim.problem(path) is None and len(data.load(path).dataset) >= 2


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_told_with_its_line(case, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(BROKEN[case][0])
    assert BROKEN[case][1] in skim.problem(path)
    with pytest.raises(UserError, match="cannot be read"):
        data.load(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(f"{LINE}\n".encode() + LINE.replace("good", "gööd").encode("latin-1") + b"\n")
    assert skim.problem(path) == (
        "of which line 2 is not UTF-8 (byte 0xf6): correct it, or convert the file to UTF-8, for instance by "
        "`iconv -f latin1 -t utf-8 p.jsonl > utf8.jsonl`."
    )
    path.write_text(f"{LINE}\n", encoding="utf-16")
    assert "`iconv -f utf-16 -t utf-8 p.jsonl > utf8.jsonl`" in skim.problem(path)


@pytest.mark.parametrize("module", [gzip, bz2, lzma], ids=lambda module: module.__name__)
def test_compressed_files(module, tmp_path):
    path = tmp_path / f"p.jsonl.{module.__name__.replace('gzip', 'gz').replace('lzma', 'xz')}"
    with module.open(path, "wt") as file:
        file.write(BROKEN["cut off"][0])
    assert "line 2 is not JSON" in skim.problem(path)
    path.write_bytes(b"none of that kind")
    assert "cannot be read" in skim.problem(path)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("most", range(60, 160, 7))
def test_where_looking_stops_is_no_mistake(indent, most, tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(ROW, indent=indent) + "\n" for _ in range(9)))
    monkeypatch.setattr(skim, "MOST", most)
    assert skim.problem(path) is None
    assert skim.extent(path).startswith("its first")


@pytest.mark.parametrize("ending", ["json.csv", "jsonl.parquet", "jsonl.zst"])
def test_the_last_ending_counts(ending, tmp_path):
    path = tmp_path / f"p.{ending}"
    path.write_bytes(b"\xb5\x2f,prompt\n")
    assert skim.problem(path) is None
    assert why_unreadable(path, ValueError("no such codec")).startswith("line 1 is" if "csv" in ending else "no such")


def test_other_files_and_names_are_left_to_loading(tmp_path):
    (tmp_path / "p.csv").write_text("a,b\n1\n")
    assert skim.problem(tmp_path / "p.csv") is None and skim.problem(tmp_path / "none.jsonl") is None
