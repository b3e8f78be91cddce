"""Drop keys that are not settings, and report what to write instead."""

import re
from typing import Any

from trl_ext.methods import METHODS, Method
from trl_ext.recipe.choice.loss import SPELLINGS
from trl_ext.recipe.layers.layer import Layers, Setting
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.renamed_keys import STANDS_FOR, remedies
from trl_ext.recipe.vocabulary import LOSS_KEYS, known_keys, trainers_of
from trl_ext.support import messages
from trl_ext.support.messages import joined

ONLY_IN_FILE = ("trainer", "variants", *SPELLINGS)
"""Keys that a variant cannot set, since they decide which variant is used."""


def drop_unknown_keys(layers: Layers, method: Method, problems: Problems) -> None:
    """Drop keys that a recipe of this method does not have; read ``no_KEY: true`` as ``KEY: false``."""
    known = known_keys(method.name)
    for layer in layers:
        kept: dict[str, Setting] = {}
        for key, setting in layer.settings.items():
            switch = known.get(key.removeprefix("no_"))
            if key in known:
                kept[key] = setting
            elif key.startswith("no_") and switch is not None and "bool" in switch.kinds and setting.value is True:
                kept[switch.name] = Setting(False, setting.place)
            else:
                near = messages.nearest(key, known)
                problems.add(setting.place, _explanation(key, setting.value, method, near))
                layer.reported |= {STANDS_FOR[key]} if key in STANDS_FOR else set(near[:1])
        layer.settings = kept


def drop_misplaced_keys(layers: Layers, problems: Problems) -> None:
    """Drop keys that are settings of a recipe, but not of a variant or a flag."""
    for variant in layers.variants:
        for key in [key for key in ONLY_IN_FILE if key in variant.settings]:
            problems.add(variant.settings.pop(key).place, "cannot be set in a variant. Remove it.")
    if layers.flags.settings.pop("variants", None) is not None:
        problems.add_sentences(
            "`--variants` cannot be a flag, since flags override every variant. Give its settings as flags."
        )


def _explanation(key: str, value: Any, method: Method, near: list[str]) -> str:
    """What to do about an unknown key, where `near` are similar ones; continues a sentence that begins with its place."""
    instead = next((text for text in remedies(key, value) if _applies(text, method)), None)
    if instead is not None:
        return f"is not a setting here: {instead}."
    if (owners := _owners(key, method)) is not None:
        return owners
    meant = " or ".join(f"`{name}`" for name in near)
    return f"is not a setting: {f'did you mean {meant}?' if near else 'check its spelling, or remove it.'}"


def _applies(instead: str, method: Method) -> bool:
    """Whether this method has every setting that a remedy names. Names that no method has are no settings."""
    named = re.findall(r"`(\w+)(?:: [^`]*)?`", instead)
    elsewhere = {key for other in METHODS for key in known_keys(other)} - set(known_keys(method.name))
    return not elsewhere & set(named)


def _owners(key: str, method: Method) -> str | None:
    """The methods that have this setting; `None` if no method has it."""
    if not method.has_loss and key in (*LOSS_KEYS, *SPELLINGS):
        return f"is a setting of preference losses, and `trainer: {method.name}` trains without one. Remove it, or remove `trainer`."
    owners = [f"`trainer: {name}`" for name in trainers_of(key)]
    if method.is_default:
        here = ". This recipe trains a preference loss. Remove it."
    else:
        here = f", not of `trainer: {method.name}`. Remove it."
        owners += ["preference losses"] if key in known_keys() else []
    return f"is a setting of {joined(owners)}{here}" if owners else None
