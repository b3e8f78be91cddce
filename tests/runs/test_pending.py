"""A command that repeats a trained run whose evaluation is not complete finds that run, and any other command does not."""

import pytest
import yaml

from tests import finished_runs
from trl_ext import recipe
from trl_ext.recipe import reader
from trl_ext.recipe.resolved import RESOLVED
from trl_ext.runs import pending

SETTINGS = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": "all-linear", "loss": "dpo"}
JUDGED = {"judge": "sentiment", "samples": 2}


@pytest.fixture
def run(tiny_model, tmp_path, monkeypatch):
    """A trained run of `small.yaml`, with an evaluation that is not complete."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    values = {"model_name_or_path": tiny_model, "dataset_name": "embedded", **SETTINGS, "evaluation": JUDGED}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(values))
    directory = finished_runs.leave(tmp_path / "runs" / "small-dpo", tiny_model, loss="dpo", evaluation=JUDGED)
    return directory.relative_to(tmp_path)


def found(**flags):
    return pending.trained_run(recipe.load("small.yaml", flags))


def test_the_command_that_began_it(run):
    assert found() == run
    assert found(resume_from_checkpoint=True) == run
    assert found(output_dir=str(run)) == run


def test_the_recipe_that_it_recorded(run):
    assert pending.trained_run(recipe.load(run / RESOLVED)) == run


@pytest.mark.parametrize("flags", [{"learning_rate": 1e-3}, {"max_steps": 3}, {"loss": "ipo"}], ids=str)
def test_another_training(run, flags):
    assert found(**flags, output_dir=str(run)) is None and found(**flags) is None


def test_a_complete_evaluation(run):
    pending.note_complete(run, JUDGED)
    assert found() is None and found(output_dir=str(run)) is None


def test_another_evaluation_is_only_for_whoever_names_the_run(run):
    pending.note_complete(run, JUDGED)
    other = {"evaluation.samples": 3}
    assert found(**other) is None  # another run is trained
    assert found(**other, output_dir=str(run)) == run
    assert found(**other, resume_from_checkpoint=True) == run


def test_no_evaluation(run):
    assert found(evaluation=False) is None


def test_a_result_that_is_not_whole(run):
    (run / "adapter_model.safetensors").unlink()
    assert found() is None


def test_a_checkpoint_that_is_named(run):
    (run / "checkpoint-1").mkdir()
    (run / "checkpoint-1" / "trainer_state.json").write_text("{}")
    assert found(resume_from_checkpoint=str(run / "checkpoint-1"), output_dir=str(run)) is None


def test_several_processes(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert found() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_record_that_is_no_record(run, content):
    (run / pending.FILE).write_text(content)
    assert found() == run


def test_another_evaluation_is_recorded_and_nothing_else_changes(run):
    before = (run / RESOLVED).read_text()
    pending.record_evaluation(recipe.load("small.yaml"), run)
    assert (run / RESOLVED).read_text() == before
    pending.record_evaluation(recipe.load("small.yaml", {"evaluation.samples": 3}), run)
    assert (run / RESOLVED).read_text().partition("\n")[0] == before.partition("\n")[0]
    values = reader.read(run / RESOLVED).values
    assert values.pop("evaluation") == {**JUDGED, "samples": 3}
    (run / RESOLVED).write_text(before)
    assert reader.read(run / RESOLVED).values == {**values, "evaluation": JUDGED}


def test_files_of_the_evaluation_are_found_from_elsewhere(run, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "r.py").write_text("def f(completions, **kwargs):\n    return []\n")
    (tmp_path / "t.txt").write_text("{prompt} {first} {second} [[FIRST]] [[SECOND]]")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "task.yaml").write_text("task: t\n")
    given = {
        "judge": ["r.py:f", "api:m"], "prompts": "p.jsonl", "judge_template": "t.txt", "tasks": ["own,arc_easy"],
    }  # fmt: skip
    pending.record_evaluation(recipe.load("small.yaml", {"evaluation": given}), run)
    assert reader.read(run / RESOLVED).values["evaluation"] == {
        "judge": [f"{tmp_path}/r.py:f", "api:m"],
        "prompts": f"{tmp_path}/p.jsonl",
        "judge_template": f"{tmp_path}/t.txt",
        "tasks": [f"{tmp_path}/own", "arc_easy"],
    }


def test_other_commands_do_not_need_the_files_of_the_evaluation(run, tmp_path):
    from trl_ext.runs import finished

    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    pending.record_evaluation(recipe.load("small.yaml", {"evaluation.prompts": "p.jsonl"}), run)
    (tmp_path / "p.jsonl").unlink()
    assert finished.recipe_of(run).evaluation is None and finished.began_as(run).evaluation is None
