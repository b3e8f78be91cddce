"""Tell whether the data and the tokenizer of a recipe are on this computer. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter
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
    if base == EMBEDDED or Path(base).expanduser().is_dir() or is_cached(base, recipe.get("model_revision")):
        return None
    return f"the tokenizer of {base} is not on this computer"


def is_cached(name: str, revision: str | None) -> bool:
    """Whether the cache of the Hub has the tokenizer of a model."""
    try:
        return isinstance(try_to_load_from_cache(name, "tokenizer_config.json", revision=revision), str)
    except HFValidationError:
        return False
