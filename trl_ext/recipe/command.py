"""Write the command that runs a recipe with given flags."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def run_command(recipe: str | Path, keys: Mapping[str, Any]) -> str:
    """`trl-ext run RECIPE --key value …`, quoted for a shell.

    Args:
        recipe: The recipe's file or name.
        keys: Recipe keys that are set by flags.
    """
    flags = [word for key, value in keys.items() for word in (f"--{key}", _word(value))]
    return shlex.join(["trl-ext", "run", str(recipe), *flags])


def _word(value: Any) -> str:
    """A value as it is written after a flag."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.strip().removesuffix("\n...")
