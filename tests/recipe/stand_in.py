"""Load recipes whose model is a local folder also where the folder is absent: one with the shape of the model stands in for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext import recipe
from trl_ext.recipe import reader
from trl_ext.recipe.resolved import Recipe
from trl_ext.support.paths import is_path

FOLDER = Path(__file__).with_name("smollm2-135m-instruct")
"""The configuration of SmolLM2-135M-Instruct, without weights and tokenizer."""


def load(path: Path, flags: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe, with `FOLDER` as its model if it names a folder that is not there."""
    model = reader.read(path).values["model_name_or_path"]
    is_absent = is_path(model) and not Path(model).expanduser().is_dir()
    stand_in = {"model_name_or_path": str(FOLDER)} if is_absent else {}
    return recipe.load(path, stand_in | dict(flags or {}))
