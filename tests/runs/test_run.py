"""`trl-ext run` from a recipe file to a run directory, in process."""

import json
import shutil

import pytest
import torch
import yaml
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from trl_ext.cli import main
from trl_ext.support.errors import UserError


@pytest.fixture
def recipe(tiny_model, tmp_path, monkeypatch):
    """Writes a recipe for the tiny model on plain pairs; returns its path. The working directory is fresh."""
    monkeypatch.chdir(tmp_path)
    Dataset.from_list(pairs(16)).to_json("pairs.jsonl")

    def write(**changes) -> str:
        settings = {
            "model_name_or_path": tiny_model,
            "dataset_name": "pairs.jsonl",
            "use_peft": True,
            "load_in_4bit": True,
            "lora_r": 4,
            "lora_target_modules": "all-linear",
            "learning_rate": 5e-4,
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "logging_steps": 1,
            "max_length": 32,
            "save_strategy": "no",
            "disable_tqdm": True,
            "variants": {"simpo": {"learning_rate": 1e-3}},
            **changes,
        }
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
        return "small.yaml"

    return write


def adapter(directory):
    return load_file(directory / "adapter_model.safetensors")


def test_a_run_leaves_everything_worth_having(recipe, tmp_path, tiny_model, capsys):
    assert main(["run", recipe()]) == 0
    run = tmp_path / "runs" / "small-dpo"
    assert {p.name for p in run.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "recipe.resolved.yaml", "metrics.jsonl",
        "curves.png", "environment.json", "README.md", "report.html",
    }  # fmt: skip
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if "loss" in record] == [1, 2]
    assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-4) and "rewards/margins" in steps[0]
    card = (run / "README.md").read_text()
    assert "pairs.jsonl" in card and "log σ" in card and "library_name: peft" in card
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "= 0.6931, the known value" in printed and "curves.png" in printed
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(run))
    assert AutoTokenizer.from_pretrained(str(run)).eos_token == "</s>"
    assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize(("every", "logged"), [(2, [2, 3]), (10, [3])])
def test_the_last_step_is_logged_whatever_logging_steps(every, logged, recipe, tmp_path, capsys):
    assert main(["run", recipe(max_steps=3, logging_steps=every), "--output_dir", "out"]) == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == logged
    printed = capsys.readouterr().out
    assert [f"step {step}" in printed for step in (2, 3)] == [2 in logged, True] and printed.count("step 3") == 1


def test_resuming_elsewhere_is_not_a_change(recipe, tmp_path, capsys):
    path = recipe(max_steps=2, save_strategy="steps", save_steps=1)
    assert main(["run", path, "--output_dir", "out"]) == 0
    (tmp_path / "out" / "adapter_model.safetensors").unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    capsys.readouterr()
    again = ["--output_dir", "out", "--resume_from_checkpoint", "true", "--disable_tqdm", "false"]
    assert main(["run", "out/recipe.resolved.yaml", *again]) == 0
    assert "changed since" not in capsys.readouterr().out


def test_the_resolved_recipe_reproduces_the_run(recipe, tmp_path):
    assert main(["run", recipe(), "--loss", "ipo", "--beta", "0.2"]) == 0
    first = tmp_path / "runs" / "small-ipo"
    assert main(["run", str(first / "recipe.resolved.yaml"), "--output_dir", "again"]) == 0
    again = adapter(tmp_path / "again")
    assert all(torch.equal(value, again[name]) for name, value in adapter(first).items())


def test_a_mixture_trains_and_its_resolved_recipe_repeats_it(recipe, tmp_path):
    entries = [{"path": "json", "data_files": "pairs.jsonl"}, {"path": "json", "data_files": ["pairs.jsonl"]}]
    assert main(["run", recipe(dataset_name=None, datasets=entries)]) == 0
    resolved = tmp_path / "runs" / "small-dpo" / "recipe.resolved.yaml"
    assert yaml.safe_load(resolved.read_text())["datasets"] == entries
    assert main(["run", str(resolved), "--output_dir", "again"]) == 0
    again = adapter(tmp_path / "again")
    assert all(torch.equal(value, again[name]) for name, value in adapter(resolved.parent).items())


def test_a_second_run_never_overwrites_the_first(recipe, tmp_path, capsys):
    path = recipe()
    assert main(["run", path, "--max_steps", "1"]) == main(["run", path, "--max_steps", "1"]) == 0
    assert (tmp_path / "runs" / "small-dpo-2" / "adapter_model.safetensors").exists()
    assert main(["run", path, "--output_dir", "runs/small-dpo"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_an_interrupted_run_resumes_to_the_same_adapter(recipe, tmp_path, capsys):
    path = recipe(max_steps=4, save_strategy="steps", save_steps=2)
    assert main(["run", path, "--output_dir", "whole"]) == 0

    shutil.copytree("whole", "broken")
    for name in ("adapter_model.safetensors", "adapter_config.json", "recipe.resolved.yaml"):
        (tmp_path / "broken" / name).unlink()
    shutil.rmtree(tmp_path / "broken" / "checkpoint-4")
    assert main(["run", path, "--output_dir", "broken", "--resume_from_checkpoint", "true"]) == 0
    resumed = adapter(tmp_path / "broken")
    assert all(torch.equal(value, resumed[name]) for name, value in adapter(tmp_path / "whole").items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]  # each step once, then the closing summary
    assert main(["run", path, "--output_dir", "nowhere", "--resume_from_checkpoint", "true"]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("loss", ["simpo", "kto", "{dpo: 1, sft: 0.2}"])
def test_the_loss_is_swapped_by_a_flag(loss, recipe, tmp_path, capsys):
    assert main(["run", recipe(), "--loss", loss, "--output_dir", "out", "--max_steps", "1"]) == 0
    printed = capsys.readouterr().out
    if loss == "simpo":
        assert "no reference pass is run" in printed
        assert yaml.safe_load((tmp_path / "out" / "recipe.resolved.yaml").read_text())["learning_rate"] == 1e-3
    if loss == "kto":
        assert "split into a desirable and an undesirable completion each" in printed  # the conversion is stated


def test_an_adapter_is_continued_against_its_own_copy(recipe, tmp_path, capsys):
    assert main(["run", recipe(), "--output_dir", "first"]) == 0
    assert main(["run", recipe(model_name_or_path=str(tmp_path / "first")), "--output_dir", "second"]) == 0
    printed = capsys.readouterr().out
    assert "frozen copy" in printed and printed.count("= 0.6931, the known value") == 2
    assert not (tmp_path / "second" / "ref").exists()


def test_overlong_prompts_are_counted_and_an_empty_rest_is_refused(recipe, capsys):
    assert main(["run", recipe(max_length=8), "--max_steps", "1"]) == 0
    assert "training examples are dropped: the prompt alone has 8 tokens" in capsys.readouterr().out
    assert main(["run", recipe(max_length=2), "--max_steps", "1"]) == 2
    assert "Every training example was dropped" in capsys.readouterr().err


def test_unpaired_data_is_refused_by_a_paired_loss(recipe, tmp_path, capsys):
    rows = [{"prompt": p["prompt"], "completion": p["chosen"], "label": i % 2 == 0} for i, p in enumerate(pairs(8))]
    Dataset.from_list(rows).to_json(str(tmp_path / "labels.jsonl"))
    assert main(["run", recipe(dataset_name="labels.jsonl")]) == 2
    assert "--loss kto" in capsys.readouterr().err
    assert main(["run", recipe(dataset_name="labels.jsonl"), "--loss", "kto"]) == 0


def test_a_misspelt_lora_target_is_refused(recipe, capsys):
    assert main(["run", recipe(lora_target_modules=["q_proj", "v_porj"])]) == 2
    assert "v_porj" in capsys.readouterr().err


def test_both_answers_to_a_prompt_stay_on_one_side_of_a_held_out_split(recipe, tmp_path):
    from trl_ext.build import dataset
    from trl_ext.build.config import training_config
    from trl_ext.recipe import load

    loaded = load(recipe(), {"loss": "kto", "eval_size": 4, "eval_strategy": "steps", "eval_steps": 1})
    statements: list[str] = []
    args = training_config(loaded, tmp_path / "out")
    train, held_out = dataset.load(loaded, args, statements)
    assert (len(train), len(held_out)) == (24, 8)
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert any("4 rows held out" in statement for statement in statements)


def test_evaluation_runs_and_lands_in_the_metrics(recipe, tmp_path):
    path = recipe(eval_size=4, eval_strategy="steps", eval_steps=1)
    assert main(["run", path, "--output_dir", "out"]) == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert sum("eval_loss" in record for record in records) == 2


def test_a_run_without_a_step_is_an_error(tmp_path):
    """Of a stream, only the first rows are known before training."""
    from types import SimpleNamespace

    from trl_ext.runs.run import _require_a_step

    (tmp_path / "recipe.resolved.yaml").touch()
    trainer = SimpleNamespace(state=SimpleNamespace(global_step=0), is_world_process_zero=lambda: True)
    with pytest.raises(UserError, match="The run took no step"):
        _require_a_step(trainer, tmp_path)
    assert not list(tmp_path.iterdir())  # the folder can be used again
    trainer.state.global_step = 1
    _require_a_step(trainer, tmp_path)
