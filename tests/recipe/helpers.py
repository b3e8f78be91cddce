"""Recipes from text, and the sentences about what is wrong with them."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from trl_ext import recipe
from trl_ext.methods import TRAINERS
from trl_ext.recipe import schema
from trl_ext.support.errors import UserError
from trl_ext.support.messages import joined

BASE = """\
model_name_or_path: embedded
dataset_name: embedded
"""
PPO = """\
trainer: ppo
model_name_or_path: embedded
dataset_name: embedded
use_peft: true
reward_funcs: [sentiment]
"""


RATE = {"learning_rate": 1e-3}
"""Flags for a recipe above with an adapter, so that no note is about its learning rate."""

KINDS = ("ppo", "online", "reward", "sft")
"""The kinds of training that sentences in tests name; `setting_of` adds newer ones."""


def setting_of(key: str, *kinds: str) -> str:
    """The sentence about a key that preference losses and these kinds of training have."""
    newer = [name for name in TRAINERS if name not in KINDS and key in schema.training(name)]
    return f"is a setting of {joined([*(f'`trainer: {name}`' for name in (*kinds, *newer)), 'preference losses'])}, not of"


def write(folder: Path, text: str, base: str = BASE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(base + dedent(text), encoding="utf-8")
    return path


def load(folder: Path, text: str, **flags: Any) -> recipe.Recipe:
    return recipe.load(write(folder, text), flags)


def load_from(folder: Path, everything: str) -> recipe.Recipe:
    return recipe.load(write(folder, "", everything))


def problems(folder: Path, text: str, base: str = BASE, **flags: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        recipe.load(write(folder, text, base), flags)
    for sentence in caught.value.problems:
        assert sentence.endswith((".", "?")) and "\n" not in sentence, sentence
    return caught.value.problems


def problem(folder: Path, text: str, base: str = BASE, **flags: Any) -> str:
    found = problems(folder, text, base, **flags)
    assert len(found) == 1, found
    return found[0]
