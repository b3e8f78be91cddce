"""The loss of `trainer: reward` with a column `margin`, against −log σ(r_chosen − r_rejected − margin) of the logged rewards and
against TRL's own trainer."""

import json
import math

import pytest
import yaml
from datasets import Dataset
from transformers import AutoTokenizer
from trl import RewardTrainer

from trl_ext import demo
from trl_ext.build import dataset
from trl_ext.build.config import training_config
from trl_ext.cli import main
from trl_ext.recipe import load
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.common.template_defaults import TemplateDefaults
from trl_ext.trainers.sft_and_reward import RewardModelConfig, RewardModelTrainer

MARGIN = 2.5
PAIR = {"prompt": "what film?", "chosen": "a great film", "rejected": "a dull film"}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe for a reward model on one pair; returns its path. The working directory is fresh."""
    monkeypatch.chdir(tmp_path)

    def write(**row):
        (tmp_path / "pairs.jsonl").write_text(2 * (json.dumps({**PAIR, **row}) + "\n"))
        settings = {
            "model_name_or_path": "embedded",
            "trainer": "reward",
            "dataset_name": "pairs.jsonl",
            "use_peft": True,
        }
        settings |= {"max_steps": 1, "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no"}
        (tmp_path / "reward.yaml").write_text(yaml.safe_dump({**settings, "use_cpu": True, "seed": 1}))
        return "reward.yaml"

    return write


@pytest.mark.parametrize("margin", [None, MARGIN])
def test_the_loss_of_the_first_step(recipe, tmp_path, margin):
    assert main(["run", recipe(**({} if margin is None else {"margin": margin}))]) == 0
    [run] = (tmp_path / "runs").iterdir()
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["loss"] == pytest.approx(math.log1p(math.exp((margin or 0) - logged["margin"])), rel=1e-3)
    resolved = yaml.safe_load((run / "recipe.resolved.yaml").read_text())
    assert resolved["apply_chat_template"] is True  # the data is plain text
    assert "| apply_chat_template | `true` |" in (run / "README.md").read_text()


def test_the_collator_receives_what_trl_gives_it(recipe, tmp_path):
    loaded = load(recipe(margin=MARGIN))
    args = training_config(loaded, tmp_path)
    given = dataset.read(loaded, args, [])
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL)
    trainer = RewardModelTrainer.__new__(RewardModelTrainer)  # without a model
    trainer._defaults = TemplateDefaults(tokenizer)
    ours = trainer._prepare_dataset(given.train, tokenizer, args, "training")
    trl = RewardTrainer._prepare_dataset(None, given.train, tokenizer, args, "training")
    assert ours[0]["margin"] == trl[0]["margin"] == MARGIN


@pytest.mark.parametrize(("loss", "reader"), [("rpo", "the loss rpo"), (None, "a reward model")])
@pytest.mark.parametrize(("values", "said"), [([1.0, None], "row 1 of"), (["wide", "far"], "has the type string")])
def test_trainers_refuse_margins_before_the_model_is_loaded(tmp_path, loss, reader, values, said):
    rows = Dataset.from_list([{**PAIR, "margin": value} for value in values])
    settings = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    if loss is None:
        make, args = RewardModelTrainer, RewardModelConfig(**settings)
    else:
        make, args = PairedPreferenceTrainer, PairedPreferenceConfig(**settings, loss=loss)
    with pytest.raises(ValueError, match=f"{said}.*{reader} reads"):
        make("no/such/model", args=args, train_dataset=rows)
    good = Dataset.from_list([{**PAIR, "margin": 1.0}])
    with pytest.raises(ValueError, match=f"`eval_dataset`.*{reader} reads"):
        make("no/such/model", args=args, train_dataset=good, eval_dataset=rows)
