"""List the cases to measure: every shipped recipe, and a few recipes with other models.

A case is a recipe with the shape of its model, data of known lengths instead of its own, and a few steps. Loss, maximum
lengths, batch size, adapter and optimizer are those of the recipe.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from trl_ext.batching.proof import known_to_be_wrong
from trl_ext.planner.models import MODELS
from trl_ext.recipe import Recipe, load, schema
from trl_ext.recipe.shipped import describe

RECIPES = Path(__file__).parents[2] / "recipes"

EXTRAS = {
    "llama-3.1-8b-dpo-hh": ("qwen3-1.7b-hh-16gb", "meta-llama/Llama-3.1-8B-Instruct"),
    "llama-3.1-8b-ppo": ("qwen3-4b-ppo", "meta-llama/Llama-3.1-8B-Instruct"),
}
"""Shipped recipes with other models: name → recipe, model."""

SHORT, LONG = "hh", "hh-longest"
"""Tables of `benchmarks/lengths`: random conversations, and the longest ones instead of instruction data."""

AGAINST_TRL = {"dpo": "sigmoid", "ipo": "ipo", "dpo_norm": "sigmoid_norm", "kto": "kto"}
"""Losses whose step is compared with TRL's trainer, with TRL's names for them."""

NOT_OURS = ("eval_", "save_", "logging_", "hub_", "num_train_epochs", "report_to", "push_to_hub", "run_name")
"""Prefixes of settings that do not affect a step."""


@dataclass(frozen=True)
class Case:
    """One recipe to measure.

    Attributes:
        name: Name of its results.
        recipe: The recipe with all settings that affect a step.
        config: The content of the model's config.json.
        lengths: Table with the lengths of its data.
        small: Whether the model is a tiny one.
    """

    name: str
    recipe: Recipe
    config: dict[str, Any]
    lengths: str
    small: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of measurements that apply to this case."""
        if self.recipe.trainer == "ppo":
            return ("rollout",)
        if not self.recipe.method.cuts_rows:
            return ("step", "profile")
        trl = ("trl",) if self.recipe.loss in AGAINST_TRL else ()
        config = CONFIG_MAPPING[self.config["model_type"]].from_dict(self.config)
        packed = ("packed_vs_padded",) if known_to_be_wrong(config) is None else ()
        return ("step", *trl, "row_tokens", *packed, "profile")

    def settled(self, folder: Path, data: Path, **values: Any) -> Recipe:
        """The recipe as it is run: with the model of `folder` and the data of a file, without evaluation and saving."""
        own = {key: value for key, value in self.recipe.values.items() if not _is_dropped(key)}
        run = {
            "model_name_or_path": str(folder),
            "dataset_name": str(data),
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
        }
        if self.small:
            run |= {"dtype": "float32", "use_cpu": True}
        merged = own | run | values
        return replace(self.recipe, values=merged, explicit={*merged})


def _is_dropped(key: str) -> bool:
    return key in schema.data() or key.startswith(NOT_OURS)


def names() -> list[str]:
    """Names of all cases: the shipped recipes whose model is on the Hub, and the extras."""
    every = map(describe, sorted(RECIPES.glob("*.yaml")))
    return [*(recipe.name for recipe in every if recipe.is_on_hub), *EXTRAS]


def get(name: str, *, small: bool = False) -> Case:
    """A case by name."""
    recipe = _recipe(name)
    config = MODELS[model_of(name)]
    lengths = SHORT if recipe.get("dataset_name") == "Anthropic/hh-rlhf" else LONG
    if small:
        recipe = replace(recipe, values=recipe.values | _small(recipe))
        config = shrunk(config)
    return Case(name, recipe, config, lengths, small)


def model_of(name: str) -> str:
    """The model of a case, by its name on the Hub."""
    return EXTRAS[name][1] if name in EXTRAS else _recipe(name).get("model_name_or_path")


def _recipe(name: str) -> Recipe:
    return load(RECIPES / f"{EXTRAS[name][0] if name in EXTRAS else name}.yaml")


def _small(recipe: Recipe) -> dict[str, Any]:
    """Settings for a tiny model on a CPU."""
    changes: dict[str, Any] = {"lora_r": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    for key, most in (("max_length", 128), ("max_completion_length", 8)):
        if recipe.get(key):
            changes[key] = most
    if str(recipe.get("optim")).startswith("paged"):  # paged optimizers need a GPU
        changes["optim"] = "adamw_8bit" if "8bit" in recipe.get("optim") else "adamw_torch"
    return changes


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A tiny configuration of the same model family."""
    config = copy.deepcopy(config)
    text = config.get("text_config", config)
    text |= {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    if text.get("sliding_window"):
        text["sliding_window"] = 32
    if "vision_config" in config:
        config["vision_config"] |= {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
        }
    return config


def trl_loss(case: Case) -> str:
    """TRL's name of the case's loss."""
    return AGAINST_TRL[case.recipe.loss]
