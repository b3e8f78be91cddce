"""Files that can be read and hold no rows are refused by `trl-ext validate` and when they are loaded."""

import json

import datasets
import pytest
import yaml

from trl_ext import data
from trl_ext.cli import main
from trl_ext.data.files.problems import find_problem, problem_of_folder
from trl_ext.support.errors import UserError

NO_ROWS = {
    "empty.jsonl": ("", "it is empty (0 bytes)"),
    "empty.csv": ("", "it is empty (0 bytes)"),
    "empty.parquet": ("", "it is empty (0 bytes)"),
    "blank.jsonl": ("\n \n\n", "it holds no rows"),
    "blank.csv": ("\n\n", "it holds no rows"),
    "mark.jsonl": ("\ufeff\n", "it holds no rows"),
    "header.csv": ("prompt,chosen,rejected\n", "it has a header and no rows"),
    "header.tsv": ("prompt\tchosen\trejected\n\n", "it has a header and no rows"),
    "list.json": ("[]", "it holds no rows"),
    "object.json": ("{}", "it holds no rows"),
    "nulls.jsonl": ("null\nnull\n", "it holds no rows"),
    "braces.jsonl": ("{}\n{}\n", "it holds no rows"),
    "data.json": ('{"version": 1, "data": []}', "it is one object whose `data` is an empty list"),
    "settings.json": (
        '{"version": 1, "shuffle": true}',
        "it is one object with the keys version, shuffle, and none of them",
    ),
    "deep.json": (
        '{"train": {"rows": []}}',
        "it is one object with the keys train, and none of them is a list of rows",
    ),
}
ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}
ROWS = {
    "one.json": json.dumps(ROW),
    "one.jsonl": json.dumps(ROW),
    "wrapped.json": json.dumps({"version": 1, "data": [ROW]}),
    "blank_lines.jsonl": f"\n{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n",
    "one.csv": "prompt,chosen,rejected\nq,a,b\n",
    "texts.json": '["one text", "another"]',
}


@pytest.mark.parametrize(("name", "content", "problem"), [(name, *rest) for name, rest in NO_ROWS.items()])
def test_they_are_recognised_and_refused(tmp_path, name, content, problem):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert problem in find_problem(path)
    with pytest.raises(UserError) as error:
        data.load(path)
    assert len(error.value.problems) == 1 and "Error" not in str(error.value)


@pytest.mark.parametrize(("name", "content"), ROWS.items())
def test_files_with_rows_are_not(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert find_problem(tmp_path / name) is None


def test_a_parquet_file_without_rows(tmp_path):
    datasets.Dataset.from_dict({name: [] for name in ROW}).to_parquet(str(tmp_path / "none.parquet"))
    assert find_problem(tmp_path / "none.parquet") == "it holds no rows. Choose another file."
    (tmp_path / "no.parquet").write_text("prompt,chosen,rejected")
    assert "Parquet" in find_problem(tmp_path / "no.parquet")


def test_folders(tmp_path):
    assert "it has no file that can be read" in problem_of_folder(tmp_path)
    (tmp_path / "train.jsonl").write_text("")
    assert problem_of_folder(tmp_path) == "train.jsonl: it is empty (0 bytes). Choose another file."
    (tmp_path / "train.jsonl").write_text(json.dumps(ROW))
    assert problem_of_folder(tmp_path) is None


@pytest.mark.parametrize("settings", [{}, {"trainer": "sft"}, {"trainer": "reward"}, {"loss": "kto"}])
def test_validate_refuses_them_with_one_sentence(tmp_path, monkeypatch, capsys, settings):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.json").write_text(NO_ROWS["data.json"][0])
    recipe = {"model_name_or_path": "embedded", "dataset_name": "data.json", **settings}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["validate", "my.yaml"]) == 2
    said = capsys.readouterr().err
    assert "data.json, which cannot be read: it is one object whose `data` is an empty list" in said
