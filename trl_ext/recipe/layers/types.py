"""Convert the values of all layers to the types of their settings."""

from collections.abc import Iterator
from typing import Any

from trl_ext import methods
from trl_ext.methods import Method
from trl_ext.recipe import schema
from trl_ext.recipe.layers.convert import convert
from trl_ext.recipe.layers.layer import Layer, Layers, Setting
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.schema import Field
from trl_ext.recipe.vocabulary import known_keys
from trl_ext.support import messages
from trl_ext.support.paths import in_full

PATHS = ("model_name_or_path", "dataset_name", "output_dir", "resume_from_checkpoint", "reward_adapter")
"""Keys whose value may be a path, in which no shell has expanded `~`."""


def convert_types(layers: Layers, method: Method, problems: Problems) -> None:
    """Convert every value to its setting's type and write `~` out in paths; drop the values that cannot be converted."""
    for variant in layers.variants:
        own = methods.of(None, is_paired=variant.info.paired) if method.is_default else method
        _convert_layer(variant, own, problems)
    for layer in (layers.file, layers.flags):
        _convert_layer(layer, method, problems)


def _convert_layer(layer: Layer, method: Method, problems: Problems) -> None:
    known = known_keys(method.name)
    kept: dict[str, Setting] = {}
    for key, (value, place) in layer.settings.items():
        try:
            kept[key] = Setting(_converted(key, known[key], value), place)
            if key == "datasets" and value:
                problems.add_sentences(*_entry_problems(kept[key]))
        except ValueError as error:
            problems.add(place, str(error))
            layer.reported.add(key)
    layer.settings = kept


def _converted(key: str, field: Field | None, value: Any) -> Any:
    converted = value if field is None else convert(field, value)
    if any(_is_half_a_pair(text) for text in (converted if isinstance(converted, list) else [converted])):
        raise ValueError(
            "contains half of a surrogate pair (\\ud800–\\udfff), which is not a character. Type it again."
        )
    return in_full(converted) if key in PATHS and isinstance(converted, str) else converted


def _is_half_a_pair(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def _entry_problems(datasets: Setting) -> Iterator[str]:
    """A sentence for each unknown key of an entry of `datasets`, and for each value of a wrong type."""
    known = schema.entry()
    entries = datasets.value if isinstance(datasets.value, list) else [datasets.value]
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not entry.get("path"):
            continue  # reported by `trl_ext.checks.data`
        where = f"Entry {number} of {datasets.place}"
        for key, value in entry.items():
            if key not in known:
                meant = messages.one_of(str(key), tuple(known))
                yield f"{where}: `{messages.shown_text(str(key))}` is not a setting of a dataset: {meant}"
                continue
            try:
                convert(known[key], value)
            except ValueError as error:
                yield f"{where}: `{key}` {error}"
