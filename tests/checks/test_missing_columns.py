"""A column that the loss reads and a local file does not have is named before anything is loaded."""

import json

import pytest

from trl_ext.recipe import load
from trl_ext.support.errors import UserError

PAIR = {"prompt": "why?", "chosen": "because", "rejected": "no"}


@pytest.fixture
def recipe(tmp_path):
    def write(loss, **more):
        (tmp_path / "pairs.jsonl").write_text(json.dumps({**PAIR, **more}) + "\n")
        text = f"model_name_or_path: embedded\ndataset_name: {tmp_path}/pairs.jsonl\nloss: {loss}\n"
        (tmp_path / "r.yaml").write_text(text)
        return str(tmp_path / "r.yaml")

    return write


@pytest.mark.parametrize(("loss", "column"), [("rpo", "margin"), ("tpo", "gold"), ("{dpo: 1.0, tpo_l: 0.5}", "gold")])
def test_it_is_named(recipe, loss, column):
    with pytest.raises(
        UserError, match=rf"which has no column `{column}`, and the loss .* reads it: .*dataset_columns: {{{column}: "
    ):
        load(recipe(loss), {})


@pytest.mark.parametrize(
    ("loss", "more", "columns"),
    [("rpo", {"margin": 1.0}, {}), ("tpo", {"best": "so"}, {"gold": "best"}), ("dpo", {}, {})],
)
def test_it_is_there(recipe, loss, more, columns):
    assert load(recipe(loss, **more), {"dataset_columns": columns} if columns else {}).loss == loss
