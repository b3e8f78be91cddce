"""Pictures of the docs are those that today's program draws from the saved results."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from docs import demo_tables, generate, pictures


def drawn(tmp_path) -> tuple[pictures.Picture, Path, Path]:
    """A small picture, and copies of its data and of its code that may be changed."""
    data, code = tmp_path / "data.json", tmp_path / "code.py"
    data.write_text(json.dumps({"size": 8}), encoding="utf-8")
    code.write_text("draws = True", encoding="utf-8")
    picture = pictures.Picture(
        "x.png",
        data,
        (SimpleNamespace(__file__=str(code)),),
        lambda record, path: Image.new("RGB", [record["size"]] * 2).save(path),
    )
    return picture, data, code


@pytest.fixture
def one(tmp_path, monkeypatch):
    picture, data, code = drawn(tmp_path)
    monkeypatch.setattr(pictures, "PICTURES", (picture,))
    pictures.draw(picture, tmp_path)
    assert pictures.stale(tmp_path) == [] and Image.open(tmp_path / "x.png").size == (8, 8)
    return picture, data, code


def test_a_picture_of_other_data_is_stale(one, tmp_path):
    picture, data, _ = one
    data.write_text(json.dumps({"size": 9}), encoding="utf-8")
    assert pictures.stale(tmp_path) == [picture]
    pictures.draw(picture, tmp_path)
    assert pictures.stale(tmp_path) == [] and Image.open(tmp_path / "x.png").size == (9, 9)


def test_a_picture_that_other_code_drew_is_stale(one, tmp_path):
    picture, _, code = one
    code.write_text("draws = 'otherwise'", encoding="utf-8")
    assert pictures.stale(tmp_path) == [picture]


def test_a_picture_that_is_missing_or_was_made_by_hand_is_stale(one, tmp_path):
    picture = one[0]
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert pictures.stale(tmp_path) == [picture]
    (tmp_path / "x.png").unlink()
    assert pictures.stale(tmp_path) == [picture]


def test_line_ends_do_not_matter(one, tmp_path):
    """A checkout on Windows has others."""
    code = one[2]
    for text in (b"first\nsecond\n", b"first\r\nsecond\r\n"):
        code.write_bytes(text)
        if text.count(b"\r"):
            assert pictures.stale(tmp_path) == []
        else:
            pictures.draw(one[0], tmp_path)


def test_the_check_names_stale_pictures(one, tmp_path, monkeypatch, capsys):
    one[1].write_text(json.dumps({"size": 9}), encoding="utf-8")
    monkeypatch.setattr(pictures, "stale", lambda stale=pictures.stale: stale(tmp_path))
    monkeypatch.setattr(generate, "FILES", ())
    assert generate.main(check=True) == 1
    assert "docs/x.png" in capsys.readouterr().err


def test_shipped_pictures_are_fresh_and_all_are_drawn_from_results():
    docs = pictures.ROOT / "docs"
    assert {path.name for path in docs.glob("*.png")} == {picture.name for picture in pictures.PICTURES}
    assert pictures.stale() == []


def test_shipped_pictures_say_what_the_results_say(tmp_path, monkeypatch):
    """Drawn again from the data, point by point."""
    record = json.loads((pictures.RESULTS / "demo.json").read_text(encoding="utf-8"))
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    for picture in pictures.PICTURES[:2]:
        picture.draw(record, tmp_path / picture.name)
    loss = next(axis for axis in figures[0].axes if axis.get_title(loc="left") == "loss").get_lines()[0]
    assert loss.get_ydata().tolist() == [line["loss"] for line in record["metrics"]]
    points = sorted(point for shown in figures[1].axes[0].containers for point in shown.lines[0].get_xydata().tolist())
    assert points == sorted(
        [row["kl"]["value"], row["score/true reward"]["value"]] for row in (record["base"], *record["rows"])
    )


def test_the_table_of_the_readme_is_the_mean_of_the_seeds():
    record = json.loads((pictures.RESULTS / "demo.json").read_text(encoding="utf-8"))
    values = [row["score/true reward"]["value"] for row in record["rows"] if row["loss"] == "dpo"]
    assert len(values) == 2 and f"| `dpo` | {sum(values) / 2:.3f} |" in demo_tables.demo()
    assert f"\n{demo_tables.demo()}\n" in (pictures.ROOT / "README.md").read_text(encoding="utf-8")
