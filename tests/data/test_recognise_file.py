"""Local files are judged from their first rows, without importing anything heavy."""

import csv
import gzip
import json
import subprocess
import sys

import pytest

from trl_ext.data.recognise_file import recognise_file
from trl_ext.support.errors import UserError

PAIRS = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(3)]
ODD = [{"q": f"p{i}", "good": "yes", "bad": "no", "who": "me"} for i in range(3)]


def write(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as file:
            file.write(text)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv"])
def test_every_kind_of_file_is_read(name, tmp_path):
    match = recognise_file(write(tmp_path / name, PAIRS))
    assert match.paired and match.format == "trl"


def test_columns_that_are_not_there_or_not_recognised_are_named(tmp_path):
    path = write(tmp_path / "odd.jsonl", ODD)
    with pytest.raises(UserError, match="are not recognised"):
        recognise_file(path)
    with pytest.raises(UserError, match="no column `question`"):
        recognise_file(path, {"prompt": "question", "chosen": "good", "rejected": "bad"})
    assert recognise_file(path, {"prompt": "q", "chosen": "good", "rejected": "bad"}).paired


def test_what_cannot_be_judged_is_left_to_loading(tmp_path):
    assert recognise_file("org/name") is None
    assert recognise_file(tmp_path) is None
    (tmp_path / "broken.jsonl").write_text('{"prompt": ')
    assert recognise_file(tmp_path / "broken.jsonl") is None


def test_a_broken_line_in_the_middle_is_found_by_validate(tmp_path, capsys):
    from trl_ext.cli import main

    data = write(tmp_path / "rows.jsonl", PAIRS * 100)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model_name_or_path: embedded\ndataset_name: {data}\nuse_peft: true\n")
    assert main(["validate", str(recipe)]) == 0
    assert "rows.jsonl [train], all of it read, TRL's own columns, pairs" in capsys.readouterr().out
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:150], lines[150][:-9], *lines[151:]]))
    assert main(["validate", str(recipe)]) == 2
    assert "cannot be read: line 151 is not JSON" in capsys.readouterr().err


def test_a_recipe_learns_of_it_before_anything_heavy_is_imported(tmp_path):
    data = write(tmp_path / "labels.jsonl", [{"prompt": "p", "completion": "c", "label": True}] * 3)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model_name_or_path: embedded\ndataset_name: {data}\nuse_peft: true\nloss: dpo\n")
    code = (
        "import sys; from trl_ext.cli import main; code = main(['validate', sys.argv[1]]); "
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules); print(code, sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(recipe)], capture_output=True, text=True)
    assert run.stdout.strip() == "2 []"
    assert "--loss kto" in run.stderr
