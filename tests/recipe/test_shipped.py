"""The recipes that come with the project."""

import dataclasses
import re
from pathlib import Path

import pytest

from tests.recipe.stand_in import load
from trl_ext import losses, methods
from trl_ext.recipe import Recipe, reader
from trl_ext.rl import truth_table
from trl_ext.support.errors import UserError

EVERY = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
TRAINER = {path: reader.read(path).values.get("trainer") for path in EVERY}
SHIPPED = [path for path in EVERY if TRAINER[path] is None]
FOR_CPUS = {path for path in EVERY if "\n# Hardware: any" in path.read_text(encoding="utf-8")}


def notes(read: Recipe) -> list[str]:
    """Without those on whose code scores completions: the project's own, of its repository."""
    return [note for note in read.notes if not note.startswith("Reward: is_short in benchmarks/real/rewards.py.")]


EXPECTED = {"tdpo": "The reference cache is not used: the loss tdpo", "sft": "`learning_rate` (line "}
"""Beginnings of the notes that a loss has in recipes that were written for others: SFT needs a larger learning rate than DPO."""


def test_there_are_some():
    assert len(SHIPPED) >= 10


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_opens_with_its_command_its_hardware_and_what_was_measured(path):
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    first = re.match(r"(?:# make [^\n]+\n)*# trl-ext run ([^\n]+)\n", head)
    assert first and first[1] == path.stem
    assert "Hardware:" in head and "Measured peak and time:" in head
    if "Scaled" in head or "scaled" in head:
        assert "not run to convergence" in head.replace("\n#", "").replace("   ", " ")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_loss_is_a_flag_away(path):
    assert load(path).notes == []
    for name in losses.available():
        if (
            losses.describe(name).columns and path.stem == "smollm2-135m-short"
        ):  # its file is here, and has no such column
            with pytest.raises(UserError, match=r"and the loss .* reads it"):
                load(path, {"loss": name})
            continue
        read = load(path, {"loss": name})
        said = [note for note in read.notes if not note.startswith(EXPECTED.get(name, "\0"))]
        assert read.loss == name and said == []


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_common_settings(path):
    read = load(path)
    examples = read.effective("per_device_train_batch_size") * read.effective("gradient_accumulation_steps")
    assert 8 <= examples <= 64 if path in FOR_CPUS else 16 <= examples <= 32
    assert read.get("load_in_4bit") and read.get("use_peft")
    assert read.effective("lora_dropout") == 0
    if path not in FOR_CPUS:
        expected = {"bnb_4bit_quant_type": "nf4", "lr_scheduler_type": "cosine", "warmup_steps": 0.1}
        assert {key: read.get(key) for key in expected} == expected
        assert read.get("use_bnb_nested_quant") and read.get("num_train_epochs") == 1


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("flags", [{}, {"loss": "ipo"}, {"loss": "kto"}, {"loss": {"simpo": 1, "sft": 0.1}}], ids=str)
def test_the_trainers_take_what_a_recipe_says(path, flags, tmp_path):
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

    from trl_ext.recipe import extras
    from trl_ext.trainers import PairedPreferenceConfig, UnpairedPreferenceConfig

    read = load(path, flags | {"use_cpu": True, "bf16": False, "output_dir": str(tmp_path)})
    sections = read.sections()
    config = (PairedPreferenceConfig if read.paired else UnpairedPreferenceConfig)(**sections["training"])
    assert config.loss == read.loss and config.loss_kwargs == read.info.fill(read.loss_kwargs)
    assert config.learning_rate == read.get("learning_rate")
    for section, classes in (
        ("model", (ModelConfig, extras.ModelExtras)),
        ("data", (ScriptArguments, DatasetMixtureConfig, extras.DataExtras)),
    ):
        for key in sections[section]:
            assert any(key in {field.name for field in dataclasses.fields(cls)} for cls in classes), key


@pytest.mark.parametrize(
    "path", [path for path in EVERY if TRAINER[path] in ("ppo", "rloo", "grpo")], ids=lambda path: path.stem
)
@pytest.mark.parametrize("cell", [None, *truth_table.GRADIENTS], ids=str)
def test_every_kl_is_a_flag_away(path, cell, tmp_path):
    flags = {} if cell is None else dict(zip(("kl_estimator", "kl_placement", "kl_level"), cell, strict=True))
    read = load(path, flags | {"use_cpu": True, "bf16": False, "output_dir": str(tmp_path)})
    config = methods.imported(read.method.config)(**read.sections()["training"])
    assert config.learning_rate == read.get("learning_rate")
    found = config.kl_estimator, config.kl_placement, config.kl_level
    assert found == (cell or ("k1", "reward", "token")) or (cell is None and config.kl_coef == 0)
    warning = truth_table.warning(*found, config.gamma) if config.kl_coef else None
    assert notes(read) == [note for note in (warning, read.awaits) if note]


def test_the_reward_recipe_leaves_what_the_ppo_recipe_reads(tmp_path, monkeypatch):
    from trl_ext.runs.resume import run_directory

    monkeypatch.chdir(tmp_path)
    ppo, reward = (next(path for path in EVERY if path.stem == f"qwen3-4b-{what}") for what in ("ppo", "reward"))
    read, before = load(ppo), load(reward)
    assert str(run_directory(before)[0]) == read.get("reward_adapter")
    assert f"trl-ext run {reward.stem}`" in read.awaits
    assert before.get("model_name_or_path") == read.get("model_name_or_path")


@pytest.mark.parametrize("path", [path for path in EVERY if TRAINER[path] == "reward"], ids=lambda path: path.stem)
def test_reward_models_take_what_a_recipe_says(path, tmp_path):
    from trl_ext.trainers.sft_and_reward import RewardModelConfig

    read = load(path, {"use_cpu": True, "bf16": False, "output_dir": str(tmp_path)})
    config = RewardModelConfig(**read.sections()["training"])
    assert config.learning_rate == read.get("learning_rate") and read.notes == []


@pytest.mark.parametrize("path", [path for path in EVERY if TRAINER[path] == "online"], ids=lambda path: path.stem)
def test_every_loss_on_pairs_is_a_flag_away_online(path, tmp_path):
    from trl_ext.trainers import OnlinePreferenceConfig

    on_pairs = [name for name in losses.available() if losses.describe(name).paired]
    known = [losses.describe(name) for name in on_pairs]
    for name in [
        loss.name
        for loss in known
        if not (loss.coupled or loss.state or loss.reads_distributions or "gold" in loss.columns)
    ]:
        read = load(path, {"loss": name, "use_cpu": True, "bf16": False, "output_dir": str(tmp_path)})
        config = OnlinePreferenceConfig(**read.sections()["training"])
        assert (config.loss, notes(read)) == (name, [])
        assert config.loss_kwargs == read.info.fill(read.loss_kwargs)
