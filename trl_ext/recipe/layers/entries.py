"""Flags for one entry of a mapping: `--evaluation.judge sentiment` changes `judge` and leaves the other entries as they are."""

from collections.abc import Mapping
from typing import Any

from trl_ext.methods import Method
from trl_ext.recipe.layers.layer import Layer, Layers, Setting
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.vocabulary import ENV, known_keys
from trl_ext.support import messages


def take_entries(layers: Layers, method: Method, problems: Problems) -> None:
    """Move flags with a dot out of the flags' layer; report those whose key is no mapping of this method."""
    mappings = {
        key for key, field in known_keys(method.name).items() if key == ENV or (field and "dict" in field.kinds)
    }
    for name in [name for name in layers.flags.settings if "." in name]:
        setting, key = layers.flags.settings.pop(name), name.partition(".")[0]
        if key in mappings:
            layers.entries[name] = setting
        elif key in known_keys(method.name):
            problems.add(
                setting.place,
                f"is an entry of `{key}`, which has no entries that a flag can set. Write `--{key} VALUE`.",
            )
        else:
            meant = messages.nearest(key, mappings)
            hint = (
                f"did you mean `--{meant[0]}.{name.partition('.')[2]}`?"
                if meant
                else "check its spelling, or remove it."
            )
            problems.add(setting.place, f"is not a setting: {hint}")


def merge_entries(merged: Layer, layers: Layers, problems: Problems) -> None:
    """Put the entries that flags give into the mappings of the merged layer."""
    for name, (value, place) in layers.entries.items():
        key, _, entry = name.partition(".")
        whole = merged.settings.get(key)
        before = {} if whole is None or whole.value is None or isinstance(whole.value, bool) else whole.value
        if not isinstance(before, dict):
            problems.add(
                place, f"is an entry of a mapping, but {whole.place} is {messages.shown(before)}. Remove one of them."
            )
            continue
        merged.settings[key] = Setting(before | {entry: value}, place if whole is None else whole.place)
        merged.entries[name] = place


def folded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of flags with entries in their mappings: `{"env.A": 1}` as `{"env": {"A": 1}}`."""
    found = {key: value for key, value in values.items() if "." not in key}
    for name, value in values.items():
        key, dot, entry = name.partition(".")
        if dot:
            before = found.get(key)
            found[key] = (before if isinstance(before, dict) else {}) | {entry: value}
    return found
