"""Three steps of the other methods on a real chat model, each compared with what transformers and PEFT alone compute."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from tests.real import plain
from tests.real.conftest import TRAINED
from trl_ext.cli import main

pytestmark = pytest.mark.slow

REWARDS = """import json

def kept(prompts, completion_ids, completions, **kwargs):
    with open({file!r}, "a", encoding="utf-8") as file:
        file.write(json.dumps([prompts, completion_ids]) + "\\n")
    return [0.0] * len(completions)
"""
"""Scores nothing, and keeps what it was given."""


@pytest.fixture(scope="module")
def scorer(real_model) -> plain.Scorer:
    return plain.Scorer(real_model)


@pytest.fixture(scope="module")
def before(real_model, scorer, dialogues) -> list[tuple[list[float], list[float]]]:
    """Log-probabilities of the pairs that are trained on, before training."""
    return scorer.of_pairs(plain.in_4_bits(real_model), dialogues[:TRAINED])


@pytest.fixture(scope="module")
def reward_run(recipe, folder) -> Path:
    settings = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    assert main(["run", recipe("reward", trainer="reward", **settings)]) == 0
    return folder / "reward"


def steps(run: Path) -> list[dict]:
    found = [record for line in (run / "metrics.jsonl").open() if "loss" in (record := json.loads(line))]
    assert [record["step"] for record in found] == [1, 2, 3]
    assert all(math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]) for record in found)
    return found


def rewarded(adapter: Path, base: str, rows: list[list[int]]) -> list[float]:
    """Scores of token sequences by the adapter and the head that PEFT loads on the base."""
    model = plain.in_4_bits(base, AutoModelForSequenceClassification, num_labels=1)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        return [model(torch.tensor([row])).logits.item() for row in rows]


def test_kto_begins_at_one_half(recipe, folder, before):
    """A pair is two labelled completions, and one step takes all of them."""
    assert main(["run", recipe("kto", loss="kto", beta=0.1, per_device_train_batch_size=2 * TRAINED)]) == 0
    found = steps(folder / "kto")
    assert found[0]["loss"] == pytest.approx(0.5, rel=2e-5) and found[2]["loss"] < 0.5
    assert "loss at the first step 0.5000 = 0.5000" in (folder / "kto" / "run.log").read_text()
    for side, kind in enumerate(("chosen", "rejected")):
        expected = plain.mean([sum(pair[side]) for pair in before])
        assert found[0][f"logps/{kind}"] == pytest.approx(expected, abs=5e-3)


def test_simpo_begins_at_what_its_formula_gives(recipe, folder, before):
    """−log σ(β(ℓ̄_w − ℓ̄_l) − γ), γ = β·ratio (arXiv:2405.14734, Eq. 6)."""
    beta, gamma = 2.0, 1.0
    assert main(["run", recipe("simpo", loss="simpo", beta=beta, gamma_beta_ratio=gamma / beta)]) == 0
    found = steps(folder / "simpo")
    margins = [plain.mean(chosen) - plain.mean(rejected) for chosen, rejected in before]
    assert found[0]["loss"] == pytest.approx(plain.mean([plain.softplus(gamma - beta * m) for m in margins]), abs=1e-3)
    assert found[2]["loss"] < found[0]["loss"]


def test_a_reward_model_is_what_plain_peft_loads(reward_run, real_model, scorer, dialogues):
    """The loss of the third step is that of the checkpoint before it: every step takes the same pairs."""
    found = steps(reward_run)
    assert all(0 <= record["accuracy"] <= 1 for record in found)
    texts = [row[side] for row in dialogues[:TRAINED] for side in ("chosen", "rejected")]
    rows = [prompt + answer for prompt, answer in map(scorer.ids, texts)]
    scores = rewarded(reward_run / "checkpoint-2", real_model, rows)
    losses = [plain.softplus(scores[i + 1] - scores[i]) for i in range(0, len(scores), 2)]
    assert found[2]["loss"] == pytest.approx(plain.mean(losses), abs=1e-3)
    assert found[2]["loss"] < found[0]["loss"]


def test_ppo_is_rewarded_by_that_model(recipe, folder, reward_run, real_model, scorer):
    file = folder / "given.jsonl"
    (folder / "rewards.py").write_text(REWARDS.format(file=str(file)))
    settings = {"reward_adapter": str(reward_run), "reward_funcs": [f"{folder / 'rewards.py'}:kept"]}
    assert main(["run", recipe("ppo", trainer="ppo", max_completion_length=16, **settings)]) == 0
    found = steps(folder / "ppo")
    assert found[0]["kl/sequence"] == pytest.approx(0, abs=1e-4)  # policy = reference
    rollouts = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rollouts) == 3
    newline = scorer.tokenizer("\n", add_special_tokens=False)["input_ids"]
    rows = []
    for prompts, completions in rollouts:
        for prompt, ids in zip(prompts, completions, strict=True):
            asked = scorer.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            ended = newline if ids[-1] == scorer.tokenizer.eos_token_id else []  # as the template ends an answer
            rows.append([*scorer.tokenizer(asked, add_special_tokens=False)["input_ids"], *ids, *ended])
    scores = rewarded(reward_run, real_model, rows)
    for number, record in enumerate(found):
        expected = plain.mean(scores[number * TRAINED : (number + 1) * TRAINED])
        assert record["rewards/reward_adapter/mean"] == pytest.approx(expected, abs=2e-3)
        assert record["score"] == pytest.approx(expected, abs=2e-3)
    assert (folder / "ppo" / "critic").is_dir()
