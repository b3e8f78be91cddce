"""Tell whether the data and the tokenizer of a recipe are on this computer. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter, local
from trl_ext.recipe import Recipe


def why_not(recipe: Recipe) -> str | None:
    """Why the data of a recipe cannot be measured without a network; `None` if it can."""
    name, model = recipe.get("dataset_name"), str(recipe.get("model_name_or_path"))
    if recipe.get("datasets"):
        return "it is a mixture"
    if recipe.get("dataset_streaming"):
        return "it is streamed"
    if name != EMBEDDED and not Path(str(name)).expanduser().exists():
        return "it is not on this computer"
    base = adapter.base_name(model) or model
    if local.folder(base, recipe.get("model_revision"), ("tokenizer_config.json",)) is not None:
        return None
    return f"the tokenizer of {base} is not on this computer"
