"""SFT, a reward model and PPO as recipes: from a file to a run directory, in process."""

import json
import math
import shutil

import pytest
import torch
import yaml
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.conftest import pairs
from trl_ext.cli import main

REWARDS = "def count_the(completions, **kwargs):\n    return [float(text.count('e')) for text in completions]\n"


@pytest.fixture
def recipe(tiny_model, tmp_path, monkeypatch):
    """Writes a recipe for the tiny model; returns its path. The working directory is fresh."""
    monkeypatch.chdir(tmp_path)
    Dataset.from_list(pairs(16)).to_json("pairs.jsonl")
    Dataset.from_list([{"prompt": pair["prompt"]} for pair in pairs(16)]).to_json("prompts.jsonl")
    (tmp_path / "my_rewards.py").write_text(REWARDS)

    def write(trainer: str, name: str = "small", **changes) -> str:
        settings = {
            "trainer": trainer,
            "model_name_or_path": tiny_model,
            "dataset_name": "pairs.jsonl",
            "use_peft": True,
            "load_in_4bit": True,
            "lora_r": 4,
            "lora_target_modules": "all-linear",
            "learning_rate": 1e-3,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "gradient_checkpointing": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            **({"max_completion_length": 6, "reward_funcs": ["my_rewards.py"]} if trainer == "ppo" else {}),
            **changes,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
        return f"{name}.yaml"

    return write


def weights(directory, name="adapter_model.safetensors"):
    return load_file(directory / name)


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_ppo_run_leaves_everything_worth_having(recipe, tmp_path, tiny_model, capsys):
    assert main(["run", recipe("ppo", dataset_name="prompts.jsonl")]) == 0
    run = tmp_path / "runs" / "small-ppo"
    assert {p.name for p in run.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "critic", "tokenizer.json", "recipe.resolved.yaml",
        "metrics.jsonl", "curves.png", "environment.json", "README.md",
    }  # fmt: skip
    steps = [record for record in records(run) if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2]
    assert {"score", "kl/sequence", "value_loss", "explained_variance", "rewards/count_the/mean"} <= steps[0].keys()
    assert steps[0]["kl/sequence"] == pytest.approx(0, abs=1e-4)
    card = (run / "README.md").read_text()
    assert "PPO (arXiv:1707.06347)" in card and "`count_the`" in card and "`k1 reward token`" in card
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "prompts.jsonl (train): prompts, 16 rows." in printed
    assert "Reward: count_the in my_rewards.py. This runs the code of that file or module." in printed
    resolved = yaml.safe_load((run / "recipe.resolved.yaml").read_text())
    assert resolved["trainer"] == "ppo" and resolved["reward_funcs"] == [str(tmp_path / "my_rewards.py")]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(run))
    assert list(model.peft_config) == ["default"]
    assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)
    assert weights(run / "critic", "value_head.safetensors")["weight"].abs().sum() > 0


def test_a_run_without_a_critic_leaves_everything_but_the_critic(recipe, tmp_path, capsys):
    flags = ["--advantage", "rloo", "--num_generations", "2"]
    assert main(["run", recipe("ppo", dataset_name="prompts.jsonl"), *flags]) == 0
    run = tmp_path / "runs" / "small-ppo-rloo"
    assert {p.name for p in run.iterdir()} >= {"adapter_model.safetensors", "curves.png", "README.md", "report.html"}
    assert not (run / "critic").exists()
    (first, second) = [record for record in records(run) if "loss" in record]
    assert {"score", "kl/sequence", "advantages/std", "frac_reward_zero_std"} <= first.keys() == second.keys()
    assert not {"value_loss", "explained_variance", "values/mean", "grad_norm/critic"} & first.keys()
    card = (run / "README.md").read_text()
    assert "| advantage | `rloo` (arXiv:2402.14740)" in card and "| num_generations | `2` |" in card
    assert "critic" not in card and "| loss_aggregation | `sum` |" in card
    page = (run / "report.html").read_text()
    assert "<dt>advantage</dt><dd>rloo: " in page and "<dt>critic</dt><dd>none</dd>" in page
    assert "value loss" not in capsys.readouterr().out


def test_the_resolved_recipe_reproduces_the_run_from_elsewhere(recipe, tmp_path, monkeypatch):
    assert main(["run", recipe("ppo"), "--kl_coef", "0.2"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["run", str(tmp_path / "runs" / "small-ppo" / "recipe.resolved.yaml"), "--output_dir", "again"]) == 0
    first, again = weights(tmp_path / "runs" / "small-ppo"), weights(tmp_path / "elsewhere" / "again")
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_an_interrupted_ppo_run_resumes_to_the_same_adapter(recipe, tmp_path):
    path = recipe("ppo", max_steps=4, save_strategy="steps", save_steps=1, num_iterations=2)
    assert main(["run", path, "--output_dir", "whole"]) == 0
    shutil.copytree("whole", "broken")
    for name in ("adapter_model.safetensors", "adapter_config.json", "recipe.resolved.yaml"):
        (tmp_path / "broken" / name).unlink()
    for step in (2, 3, 4):  # what is left was taken in the middle of a rollout
        shutil.rmtree(f"broken/checkpoint-{step}")
    assert main(["run", path, "--output_dir", "broken", "--resume_from_checkpoint", "true"]) == 0
    for name in ("adapter_model.safetensors", "critic/adapter_model.safetensors", "critic/value_head.safetensors"):
        whole, resumed = weights(tmp_path / "whole", name), weights(tmp_path / "broken", name)
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items()), name
    assert [record["step"] for record in records(tmp_path / "broken")] == [1, 2, 3, 4, 4]


def test_the_estimator_is_swapped_by_a_flag(recipe, tmp_path, capsys, recwarn):
    flags = ["--kl_estimator", "k2", "--kl_placement", "loss"]
    assert main(["run", recipe("ppo"), *flags, "--output_dir", "k2"]) == 0
    assert "does not give the gradient" not in capsys.readouterr().out
    assert "kl_loss" in records(tmp_path / "k2")[0]
    assert main(["run", recipe("ppo"), "--kl_estimator", "k3", "--output_dir", "k3", "--max_steps", "1"]) == 0
    assert capsys.readouterr().out.count("does not give the gradient of KL(π‖ref)") == 1
    assert not [warning for warning in recwarn if "gradient of KL" in str(warning.message)]


def test_sft_reward_ppo(recipe, tmp_path, tiny_model, capsys):
    assert main(["run", recipe("sft", "sft", max_length=32)]) == 0
    printed = capsys.readouterr().out
    assert "only the chosen completions are used, 16 pairs." in printed
    sft = tmp_path / "runs" / "sft"
    assert records(sft)[0]["loss"] > 0 and all(value.dtype == torch.float32 for value in weights(sft).values())

    assert main(["run", recipe("reward", "reward", max_length=32, learning_rate=0.05)]) == 0
    reward = tmp_path / "runs" / "reward"
    head = [key for key in weights(reward) if key.endswith("score.weight")]
    assert len(head) == 1 and weights(reward)[head[0]].dtype == torch.float32
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    PeftModel.from_pretrained(base, str(reward))
    assert "AutoModelForSequenceClassification" in (reward / "README.md").read_text()

    capsys.readouterr()
    assert main(["kl", str(reward)]) == 2
    assert "holds a reward model, which cannot generate text" in capsys.readouterr().err

    chain = {"model_name_or_path": "runs/sft", "reward_adapter": "runs/reward", "reward_funcs": None}
    assert main(["run", recipe("ppo", "chain", **chain)]) == 0
    ppo = tmp_path / "runs" / "chain-ppo"
    first = records(ppo)[0]
    assert first["score"] == pytest.approx(first["rewards/reward_adapter/mean"]) and first["score"] != 0
    assert first["kl/sequence"] == pytest.approx(0, abs=1e-4)  # against a frozen copy of the SFT adapter
    assert "a frozen copy of the adapter" in (ppo / "README.md").read_text()
    assert not (ppo / "reward").exists() and not (ppo / "ref").exists()


def test_a_sequence_classifier_and_a_function_are_added_up(recipe, tmp_path, tiny_model):
    from transformers import AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).save_pretrained("scorer")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained("scorer")
    both = {"reward_funcs": ["my_rewards.py:count_the", "scorer"], "reward_weights": [1.0, 0.5], "max_steps": 1}
    assert main(["run", recipe("ppo", **both), "--output_dir", "out"]) == 0
    first = records(tmp_path / "out")[0]
    expected = first["rewards/count_the/mean"] + 0.5 * first["rewards/scorer/mean"]
    assert first["score"] == pytest.approx(expected, rel=1e-5)


def test_what_fails_before_weights_are_loaded(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trl_ext.build.trainer.load_policy", lambda *_: pytest.fail("weights were loaded"))
    assert main(["run", recipe("ppo", reward_funcs=None)]) == 2
    assert "`trainer: ppo` has no source of reward" in capsys.readouterr().err
    assert main(["run", recipe("ppo", reward_funcs=["my_rewards:width"])]) == 2
    assert "my_rewards has no function width" in capsys.readouterr().err
    assert main(["run", recipe("ppo", steps_per_generation=3, num_generations=2, generation_batch_size=8)]) == 2
    assert "generation_batch_size" in capsys.readouterr().err
    (tmp_path / "questions.jsonl").write_text('{"ask": "x"}\n' * 8)
    assert main(["run", recipe("ppo", dataset_name="questions.jsonl")]) == 2
    assert "dataset_columns: {prompt:" in capsys.readouterr().err


def test_a_reward_adapter_of_another_base_is_refused(recipe, tmp_path, tiny_model, capsys):
    assert main(["run", recipe("reward", "reward", max_length=32)]) == 0
    path = tmp_path / "runs" / "reward" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "org/other"}))
    assert main(["run", recipe("ppo", reward_adapter="runs/reward")]) == 2
    assert "was trained on org/other" in capsys.readouterr().err


def test_the_kl_of_a_ppo_run_is_audited(recipe, tmp_path, capsys):
    assert main(["run", recipe("ppo", learning_rate=1e-2)]) == 0
    capsys.readouterr()
    assert main(["kl", "runs/small-ppo", "--n", "64", "--max_new_tokens", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("k1 reward token ◀") == 2 and "sampling 64 completions" in printed
    assert main(["kl", "small.yaml", "--n", "64", "--max_new_tokens", "4"]) == 0
    assert "sampling 64 completions from runs/small-ppo" in capsys.readouterr().out


def test_the_demo_by_ppo_is_measured_at_its_end(tmp_path, monkeypatch, capsys):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    few = ["--max_steps", "1", "--per_device_train_batch_size", "4", "--max_completion_length", "8"]
    assert main(["run", str(Path(__file__).parents[2] / "recipes" / "demo-ppo.yaml"), *few, "--disable_tqdm"]) == 0
    printed = capsys.readouterr().out
    assert "true reward" in printed and "sentences that parse" in printed
    record = json.loads(Path("runs/demo-ppo/eval-embedded-test.json").read_text())
    assert record["sampled"]["ended"]["base"]["value"] > 0.9


@pytest.mark.slow
def test_ppo_raises_the_true_reward_of_the_demo(tmp_path, monkeypatch):
    """Ten rollouts of the shipped recipe instead of thirty, at a constant rate; sampled on held-out prompts."""
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).parents[2] / "recipes" / "demo-ppo.yaml"
    few = ["--max_steps", "20", "--lr_scheduler_type", "constant", "--max_completion_length", "40", "--disable_tqdm"]
    assert main(["run", str(recipe), *few]) == 0
    sampled = json.loads(Path("runs/demo-ppo/eval-embedded-test.json").read_text())["sampled"]
    before, after = (sampled["scores"]["true reward"][who] for who in ("base", "tuned"))
    error = math.hypot(*((each["high"] - each["low"]) / (2 * 1.96) for each in (before, after)))
    assert after["value"] - before["value"] > max(4 * error, 0.15)
    assert sampled["kl"]["k1"]["low"] > 0 and sampled["scores"]["sentences that parse"]["tuned"]["value"] > 0.95
    logged = [record["score"] for record in records(tmp_path / "runs" / "demo-ppo") if "score" in record]
    assert len(logged) == 10 and sum(logged[-2:]) / 2 > logged[0]
