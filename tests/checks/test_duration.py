"""Runs that would take no step are refused where the number of rows is known from a local file."""

import json

import pytest

from tests.recipe.helpers import BASE, PPO, problem, write
from trl_ext import recipe

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
DROPS = "dataloader_drop_last: true\nper_device_train_batch_size: "


@pytest.fixture
def base(tmp_path):
    def make(row=PAIR, rows=5, name="rows.jsonl", between=""):
        path = tmp_path / name
        lines = [json.dumps(row)] * rows
        text = json.dumps([row] * rows) if name.endswith(".json") else f"\n{between}".join(lines) + "\n"
        path.write_text(text, encoding="utf-8")
        return f"model_name_or_path: embedded\ndataset_name: {path}\n"

    return make


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_fewer_rows_than_a_batch(name, base, tmp_path):
    said = problem(tmp_path, f"{DROPS}6\n", base(name=name))
    assert "The training data has at most 5 pairs, and a batch has 6 (`per_device_train_batch_size`)" in said
    assert said.startswith("`dataloader_drop_last` (line 3)") and "no step would be taken" in said
    recipe.load(write(tmp_path, f"{DROPS}5\n", base(name=name)))
    recipe.load(write(tmp_path, f"{DROPS.replace('true', 'false')}6\n", base(name=name)))


def test_blank_lines_are_no_rows(base, tmp_path):
    recipe.load(write(tmp_path, f"{DROPS}5\n", base(between="\n")))
    assert "at most 5 pairs" in problem(tmp_path, f"{DROPS}6\n", base(between="\n"))


def test_several_processes_share_the_rows(base, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "on each of 2 processes" in problem(tmp_path, f"{DROPS}3\n", base())


def test_every_kind_of_rows(base, tmp_path):
    assert "at most 3 completions" in problem(tmp_path, f"trainer: sft\nmax_train_samples: 3\n{DROPS}4\n")
    pairs = base()
    assert "at most 10 completions" in problem(tmp_path, f"loss: kto\n{DROPS}11\n", pairs)
    recipe.load(write(tmp_path, f"loss: kto\n{DROPS}10\n", pairs))
    several = base({"prompt": "a", "completions": ["a", "b", "c"], "scores": [1, 2, 3]})
    assert "at most" not in _problems(tmp_path, f"{DROPS}6\n", several)


def _problems(folder, text, base):
    try:
        recipe.load(write(folder, text, base))
    except Exception as error:
        return str(error)
    return ""


def test_fewer_prompts_than_a_rollout(base, tmp_path):
    ppo = PPO.replace("dataset_name: embedded\n", base().splitlines()[1] + "\n")
    said = problem(tmp_path, "per_device_train_batch_size: 6\ngradient_accumulation_steps: 1\n", ppo)
    assert "at most 5 prompts, and a rollout needs 6: 6 completions, 1 for each prompt" in said
    text = "per_device_train_batch_size: 5\nsteps_per_generation: 2\nnum_generations: "
    recipe.load(write(tmp_path, f"{text}2\n", ppo))
    assert "a rollout needs 10" in problem(tmp_path, f"{text}1\n", ppo)


@pytest.mark.parametrize("when", ["eval_strategy: steps\n", "eval_on_start: true\n"])
def test_fewer_evaluation_rows_than_a_batch(when, tmp_path):
    text = f"{when}dataloader_drop_last: true\nper_device_train_batch_size: 8\nper_device_eval_batch_size: 12\n"
    said = problem(tmp_path, f"{text}eval_size: 10\n", BASE)
    assert "at most 10 pairs (`eval_size`), and a batch has 12" in said and "nothing would be evaluated" in said
    assert "(`max_eval_samples`)" in problem(tmp_path, f"{text}eval_size: 100\nmax_eval_samples: 4\n", BASE)
    recipe.load(write(tmp_path, f"{text}eval_size: 12\n", BASE))
    recipe.load(write(tmp_path, f"{text}eval_size: 0.5\n", BASE))
