"""Rows of an evaluation: read as in training, tokenised as the run tokenises its own evaluation data."""

import json
import shutil

import pytest
import yaml
from trl import chat_template_utils

from tests import finished_runs
from tests.trainers.helpers import randomise_lora_b
from trl_ext import demo
from trl_ext.build import dataset
from trl_ext.build.config import training_config
from trl_ext.build.trainer import build_trainer
from trl_ext.evaluation.prompts import PromptChoice, find_prompts
from trl_ext.evaluation.rows import RowChoice, find_rows
from trl_ext.evaluation.scores import scorer
from trl_ext.recipe import load
from trl_ext.reference import frozen_copy
from trl_ext.runs.load import open_model


def said(text):
    return [{"role": "assistant", "content": text}]


KWARGS = [None, '{"enable_thinking": false}', {"enable_thinking": True, "x": None}, ""]
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Why {i}?"}],
        "chosen": said("<think>\nhm\n</think>\n\nSo."),
        "rejected": said("No."),
        "chat_template_kwargs": kwargs,
    }
    for i, kwargs in enumerate(KWARGS)
]


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kwargs", [KWARGS[:2] + KWARGS[3:], KWARGS[:1] + KWARGS[2:3]], ids=["texts", "mappings"])
@pytest.mark.parametrize("settings", [{"thoughts": "answer"}, {"dataset_streaming": True, "max_steps": 1}])
def test_rows_are_those_of_training(tmp_path, kwargs, settings):
    rows = [{**row, "chat_template_kwargs": value} for row, value in zip(ROWS, kwargs, strict=False)]
    own, other = (write(tmp_path / f"{name}.jsonl", rows) for name in ("own", "other"))
    recipe = {"model_name_or_path": "embedded", "loss": "dpo", "dataset_name": own, "use_peft": True, **settings}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    recipe = load(tmp_path / "recipe.yaml")
    args = training_config(recipe, tmp_path / "run")
    wanted = list(dataset.read(recipe, args, []).train)
    assert all(isinstance(row["chat_template_kwargs"], dict) for row in wanted)
    for choice in (RowChoice(split="train"), RowChoice(dataset=other)):
        found = list(find_rows(recipe, args, choice).dataset)
        assert found == wanted and len(found) == len(rows)
    asked = find_prompts(recipe, args, PromptChoice(split="train")).prompts
    assert [prompt.variables for prompt in asked] == [row["chat_template_kwargs"] for row in wanted]


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_tokens_are_those_of_the_runs_own_evaluation(tmp_path, loss):
    """Of a template that writes empty thoughts, which `no_empty` moves into prompts."""
    model = shutil.copytree(demo.MODEL, tmp_path / "thinker")
    (model / "chat_template.jinja").write_text(chat_template_utils.qwen3_chat_template, encoding="utf-8")
    plain = [{"prompt": row["prompt"], "chosen": said("So."), "rejected": said("No.")} for row in ROWS]
    if loss == "kto":
        plain = [
            {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
            for row in plain
            for name in ("chosen", "rejected")
        ]
    settings = {"dataset_name": write(tmp_path / "own.jsonl", plain), "loss": loss, "thoughts": "no_empty"}
    settings |= {"eval_size": 2, "eval_strategy": "steps", "max_steps": 1, "use_cpu": True, "bf16": False}
    run = finished_runs.leave(tmp_path / "run", str(model), **settings)
    recipe = load(run / "recipe.resolved.yaml")
    rows = find_rows(recipe, training_config(recipe, run), RowChoice())
    found = scorer(open_model(run, needs_reference=True), rows).train_dataset
    wanted = build_trainer(recipe, tmp_path / "again").trainer.eval_dataset
    names = [name for name in wanted.column_names if name.endswith("_ids")]
    assert [[row[name] for name in names] for row in found] == [[row[name] for name in names] for row in wanted]


def test_a_run_in_memory_is_scored_against_its_base_and_not_its_moving_reference(tmp_path):
    """As `compare` finds the model of a run with `sync_ref_model`."""
    settings = {"dataset_name": write(tmp_path / "own.jsonl", ROWS), "loss": "dpo", "eval_size": 2, "use_cpu": True}
    run = finished_runs.leave(
        tmp_path / "run", str(demo.MODEL), eval_strategy="steps", bf16=False, max_steps=1, **settings
    )
    recipe = load(run / "recipe.resolved.yaml")
    rows = find_rows(recipe, training_config(recipe, run), RowChoice())
    found = []
    for has_reference in (False, True):
        opened = open_model(run, needs_reference=True)
        randomise_lora_b(opened.model)
        if has_reference:
            frozen_copy.add(opened.model)
        made = scorer(opened, rows)
        found.append([each.reference.sum() for pair in made.scored(made.train_dataset) for each in pair])
        assert frozen_copy.FROZEN_COPY not in opened.model.peft_config
    assert found[0] == pytest.approx(found[1], abs=1e-5)
