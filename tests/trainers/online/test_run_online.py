"""Online preference training as a recipe: from a file to a run directory, in process."""

import json

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.runs.test_run_ppo import recipe as recipe_of_ppo
from trl_ext.cli import main

recipe = recipe_of_ppo  # the fixture: writes recipes for the tiny model


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_plain_adapter(recipe, tmp_path, tiny_model, capsys):
    online = {"loss": "ipo", "beta": 0.5, "max_completion_length": 6, "reward_funcs": ["my_rewards.py"]}
    assert main(["run", recipe("online", dataset_name="prompts.jsonl", **online)]) == 0
    run = tmp_path / "runs" / "small-ipo"
    steps = [record for record in records(run) if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2]
    assert {"score", "kl/sequence", "rewards/margins", "pairs/ties", "rewards/count_the/mean"} <= steps[0].keys()
    card = (run / "README.md").read_text()
    assert "online preference optimisation (arXiv:2402.04792)" in card and "`ipo`" in card and "`count_the`" in card
    printed = capsys.readouterr().out
    assert "prompts.jsonl (train): prompts, 16 rows." in printed and "loss ipo:" in printed
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(run))
    assert list(model.peft_config) == ["default"]
    assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)
    resolved = yaml.safe_load((run / "recipe.resolved.yaml").read_text())
    assert (resolved["trainer"], resolved["loss"], resolved["beta"]) == ("online", "ipo", 0.5)
    assert main(["run", str(run / "recipe.resolved.yaml"), "--output_dir", "again"]) == 0
    first, again = (load_file(folder / "adapter_model.safetensors") for folder in (run, tmp_path / "again"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_a_reward_adapter_chooses_the_pairs(recipe, tmp_path):
    assert main(["run", recipe("reward", "reward", max_length=32, learning_rate=0.05)]) == 0
    online = {"max_completion_length": 6, "reward_adapter": "runs/reward", "num_iterations": 2}
    assert main(["run", recipe("online", "chain", **online)]) == 0
    first = records(tmp_path / "runs" / "chain-dpo")[0]
    assert first["score"] == pytest.approx(first["rewards/reward_adapter/mean"]) and first["score/margin"] > 0
    assert not (tmp_path / "runs" / "chain-dpo" / "reward").exists()
