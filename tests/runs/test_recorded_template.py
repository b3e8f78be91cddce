"""What a run records of `apply_chat_template`, and runs that were recorded before the setting existed."""

import json

import pytest
import yaml

from trl_ext.build import dataset
from trl_ext.build.config import training_config
from trl_ext.evaluation.rows import RowChoice, find_rows
from trl_ext.recipe import load
from trl_ext.runs.resume import as_recorded

ROWS = [{"prompt": f"what film {i}?", "chosen": "a great film", "rejected": "a dull film"} for i in range(4)]
TURN = [{"role": "user", "content": "what film 0?"}]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(**settings) -> a run directory that holds a resolved recipe with these settings, on plain text pairs."""
    monkeypatch.chdir(tmp_path)

    def write(**settings):
        for name in ("train", "other"):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        home = tmp_path / "run"
        home.mkdir(exist_ok=True)
        values = {
            "loss": "dpo",
            "model_name_or_path": "embedded",
            "dataset_name": str(tmp_path / "train.jsonl"),
            "use_peft": True,
        }
        text = yaml.safe_dump({**values, **settings})
        (home / "recipe.resolved.yaml").write_text(
            f"# my.yaml with everything merged. Repeat the run: trl-ext run x\n{text}"
        )
        return home

    return write


@pytest.mark.parametrize(
    ("recorded", "prompt"),
    [({}, "what film 0?"), ({"apply_chat_template": True}, TURN), ({"apply_chat_template": False}, "what film 0?")],
)
def test_data_is_read_as_the_run_recorded_it(run, recorded, prompt):
    home = run(**recorded)
    recipe, said = load(home / "recipe.resolved.yaml"), []
    args = training_config(recipe, home)
    assert dataset.read(recipe, args, said).train[0]["prompt"] == prompt
    if not recorded:
        assert any("as this run was recorded before `apply_chat_template` existed" in line for line in said)
    # `trl-ext eval --dataset` and `trl-ext compare` read other data in the same way
    evaluated = find_rows(recipe, args, RowChoice(dataset="other.jsonl"))
    assert evaluated.dataset[0]["prompt"] == prompt


def test_a_resumed_run_keeps_what_it_was_begun_with(run, tmp_path):
    (tmp_path / "my.yaml").write_text("{model_name_or_path: embedded, dataset_name: train.jsonl, use_peft: true}")
    home = run()
    recipe = load(tmp_path / "my.yaml")
    assert recipe.apply_chat_template == "auto"
    assert as_recorded(recipe, home).apply_chat_template is None
    assert as_recorded(recipe, tmp_path / "elsewhere").apply_chat_template == "auto"
    run(apply_chat_template=True)
    assert as_recorded(recipe, home).apply_chat_template == "auto"
    stated = load(tmp_path / "my.yaml", {"apply_chat_template": False})
    run()
    assert as_recorded(stated, home).apply_chat_template is False


def test_flags_of_other_settings_do_not_make_an_old_run_new(run):
    assert load(run() / "recipe.resolved.yaml", {"learning_rate": 1e-4}).apply_chat_template is None
    assert load(run() / "recipe.resolved.yaml", {"apply_chat_template": "auto"}).apply_chat_template == "auto"
