"""A quick look at a JSON file finds the problems that reading all of it with `datasets` finds."""

import bz2
import gzip
import json
import lzma

import pytest

from trl_ext import data
from trl_ext.data.files import problems
from trl_ext.data.files.problems import explain, extent, find_problem
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
    "a number": (f"{LINE}\n5\n{LINE}\n", "line 2 is not an object"),
    "a list of numbers": (f"{LINE}\n[1]\n", "line 2 is not an object"),
    "a broken list": (json.dumps([ROW, ROW], indent=1)[:-4], "is not JSON"),
}


@pytest.mark.parametrize("case", IN_ORDER)
def test_what_can_be_read_is_in_order(case, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(IN_ORDER[case], encoding="utf-8")
    assert find_problem(path) is None and len(data.load(path).dataset) >= 2


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_told_with_its_line(case, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(BROKEN[case][0])
    assert BROKEN[case][1] in find_problem(path)
    with pytest.raises(UserError, match="cannot be read"):
        data.load(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(f"{LINE}\n".encode() + LINE.replace("good", "gööd").encode("latin-1") + b"\n")
    assert find_problem(path) == (
        "line 2 is not UTF-8 (byte 0xf6). Correct it, or convert the file to UTF-8, for instance with "
        "`iconv -f latin1 -t utf-8 p.jsonl > utf8.jsonl`."
    )
    path.write_text(f"{LINE}\n", encoding="utf-16")
    assert "`iconv -f utf-16 -t utf-8 p.jsonl > utf8.jsonl`" in find_problem(path)


@pytest.mark.parametrize("module", [gzip, bz2, lzma], ids=lambda module: module.__name__)
def test_compressed_files(module, tmp_path):
    path = tmp_path / f"p.jsonl.{module.__name__.replace('gzip', 'gz').replace('lzma', 'xz')}"
    with module.open(path, "wt") as file:
        file.write(BROKEN["cut off"][0])
    assert "line 2 is not JSON" in find_problem(path)
    path.write_bytes(b"none of that kind")
    assert "If it is not compressed, rename it to p.jsonl." in find_problem(path)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("most", range(60, 160, 7))
def test_where_looking_stops_is_no_mistake(indent, most, tmp_path, monkeypatch):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(ROW, indent=indent) + "\n" for _ in range(9)))
    monkeypatch.setattr(problems, "QUICK", most)
    assert find_problem(path) is None
    assert extent(path).startswith("its first")


@pytest.mark.parametrize(
    ("ending", "problem"),
    [
        ("json.csv", "line 1 is not UTF-8"),
        ("jsonl.parquet", "Parquet magic bytes not found"),
        ("jsonl.zst", "it is not a zstd file"),
    ],
)
def test_the_last_ending_counts(ending, problem, tmp_path):
    path = tmp_path / f"p.{ending}"
    path.write_bytes(b"\xb5\x2f,prompt\n")
    assert (find_problem(path) or "None").startswith(str(problem))
    assert explain(path, ValueError("no such codec")).startswith(problem or "no such")


def test_other_files_and_names_are_left_to_loading(tmp_path):
    (tmp_path / "p.csv").write_text("a,b\n1\n")
    assert find_problem(tmp_path / "p.csv") is None and find_problem(tmp_path / "none.jsonl") is None
