"""Check the sizes and the class that a model's config.json names, without transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext.model_files import modules
from trl_ext.support.counts import count
from trl_ext.support.messages import shown

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip
LAYER = re.compile(r"(?:(?:model|transformer|language_model|text_model|gpt_neox)\.)*(?:layers|h)\.(\d+)\.")
"""Beginning of the name of a tensor in a layer of the language model."""


def problem(file: Path, config: Mapping[str, Any]) -> str | None:
    """An error message about the content of a config.json; `None` if nothing is wrong that can be seen without transformers.

    Args:
        file: For the message.
        config: Its content.
    """
    classes = config.get("architectures")
    if "architectures" in config and not (
        isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)
    ):
        return (
            f"{file} gives `architectures` as {shown(classes) if classes else 'an empty list'}, but it is a list with the name of the "
            'model\'s class, for instance ["LlamaForCausalLM"]. Correct it, or copy the model again.'
        )
    for part in (config, config.get("text_config")):
        if part is not None and not isinstance(part, Mapping):
            return f"{file} gives `text_config` as {shown(part)}, but it is a mapping. Copy the model again."
        for name in SIZES:
            if part and not _is_size(part.get(name)):
                return (
                    f"{file} gives `{name}` as {shown(part[name])}, but it is a whole number above 0. Correct it, or copy the model "
                    "again."
                )
    return None


def missing_layers(folder: Path, layers: Any) -> str | None:
    """An error message if the weights in a folder hold fewer layers than the model has; `None` if they do not, or it is unknown.

    Args:
        folder: Of a model.
        layers: Of the language model, by its configuration or the default of its architecture.
    """
    numbers = [int(found[1]) for name in modules.names_in_files(folder) if (found := LAYER.match(name))]
    stored = max(numbers, default=-1) + 1
    if not stored or not isinstance(layers, int) or layers <= stored:
        return None
    return (
        f"The model in {folder} has {count(layers, 'layers')} by its config.json, or by default if that gives no number, but its weights "
        f"hold {stored:,}. transformers would fill the others with random numbers. Correct `num_hidden_layers` in config.json, or copy the "
        "model again."
    )


def _is_size(value: Any) -> bool:
    """Whether a value can be a size; some models have one for each layer, and `None` stands for a default."""
    if isinstance(value, list):
        return all(map(_is_size, value))
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)
