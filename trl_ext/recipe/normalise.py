"""One layer of settings made clean: only keys that exist, every value in its type."""

import re
from collections.abc import Iterable
from typing import Any

from trl_ext.recipe.choice import SPELLINGS
from trl_ext.recipe.convert import convert
from trl_ext.recipe.renamed_keys import STANDS_FOR, remedy
from trl_ext.recipe.settings import Layer, Setting
from trl_ext.recipe.vocabulary import LOSS_KEYS, TRAINERS, hyperparameters, known_keys, nearest, trainers_of
from trl_ext.support import messages
from trl_ext.support.paths import in_full

PLACES = ("model_name_or_path", "dataset_name", "output_dir", "resume_from_checkpoint", "reward_adapter")
"""Keys whose value may be a path, which no shell has seen."""


def known(layer: Layer, problems: list[str], kind: str = "paired") -> Layer:
    """The layer without keys that are no settings here, ``no_key`` read as false, and `loss_kwargs` unfolded."""
    allowed = known_keys(kind)
    kept: Layer = {}
    for key, setting in layer.items():
        switch = allowed.get(key.removeprefix("no_"))
        if key in allowed:
            kept[key] = setting
        elif key.startswith("no_") and switch is not None and "bool" in switch.kinds and setting.value is True:
            kept[switch.name] = Setting(False, setting.where)
        elif (instead := _remedy(key, setting.value, kind)) is not None:
            problems.append(f"{setting.where} is not a setting here: {instead}.")
        elif (elsewhere := _elsewhere(key, kind)) is not None:
            problems.append(f"{setting.where} {elsewhere}")
        else:
            near = " or ".join(f"`{name}`" for name in nearest(key, kind))
            hint = f"did you mean {near}?" if near else "check its spelling, or remove it."
            problems.append(f"{setting.where} is not a setting: {hint}")
    return _unfold(kept, problems)


def meant(keys: Iterable[str], kind: str = "paired") -> set[str]:
    """What keys that are no settings were probably meant to be: it need not be called missing as well."""
    allowed = known_keys(kind)
    near = {key: STANDS_FOR.get(key) or next(iter(nearest(key, kind)), None) for key in keys if key not in allowed}
    return {setting for setting in near.values() if setting}


def typed(layer: Layer, kind: str, problems: list[str]) -> Layer:
    """The layer with every value in its setting's type, `~` written out; without the values of another type."""
    allowed = known_keys(kind)
    kept: Layer = {}
    for key, (value, where) in layer.items():
        field = allowed[key]
        try:
            converted = value if field is None else convert(field, value)
            if any(_is_torn(text) for text in (converted if isinstance(converted, list) else [converted])):
                raise ValueError(
                    "holds half of a surrogate pair (\\ud800–\\udfff), which is no character: write it anew."
                )
            is_place = key in PLACES and isinstance(converted, str)
            kept[key] = Setting(in_full(converted) if is_place else converted, where)
        except ValueError as error:
            problems.append(f"{where} {error}")
    return kept


def _is_torn(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def _remedy(key: str, value: Any, kind: str) -> str | None:
    """What to write instead of an old key, unless that is a setting which this kind of training has not."""
    found, allowed = remedy(key, value), known_keys(kind)
    named = re.findall(r"`(\w+)(?:: [^`]*)?`", found or "")
    fits = all(name in allowed or not (name in known_keys() or trainers_of(name)) for name in named)
    return found if fits else None


def _elsewhere(key: str, kind: str) -> str | None:
    """The end of a sentence about a key that other kinds of training have; `None` if none has it."""
    if kind in TRAINERS and key in (*LOSS_KEYS, *SPELLINGS):
        return f"is about losses on preferences, and `trainer: {kind}` has none: remove it, or take a recipe without `trainer`."
    owners = [f"`trainer: {trainer}`" for trainer in trainers_of(key)]
    if kind not in TRAINERS:
        here = "and this recipe trains a loss on preferences"
    else:
        here = f"not of `trainer: {kind}`"
        owners += ["losses on preferences"] if key in known_keys() else []
    return f"is a setting of {' and '.join(owners)}, {here}: remove it." if owners else None


def _unfold(layer: Layer, problems: list[str]) -> Layer:
    """Hyperparameters in `loss_kwargs` as keys of their own; what is meant for one part of a mix stays."""
    value, where = layer.pop("loss_kwargs", Setting(None, ""))
    if value is None:
        return layer
    if not isinstance(value, dict):
        problems.append(
            f"{where} is {messages.shown(value)}: give a mapping, for instance `loss_kwargs: {{beta: 0.1}}`."
        )
        return layer
    value = {str(key): given for key, given in value.items()}
    for_parts = {
        key: {str(name): given for name, given in part.items()}
        for key, part in value.items()
        if isinstance(part, dict)
    }
    for key, given in value.items():
        if key in for_parts:
            continue
        if key in layer and layer[key].value != given:
            problems.append(f"{layer[key].where} is {layer[key].value} and {given} in {where}: keep one of them.")
        elif key not in hyperparameters():
            near = messages.nearest(str(key), hyperparameters())
            hint = f"did you mean `{near[0]}`?" if near else "`trl-ext losses` lists them."
            problems.append(f"`{messages.shown_text(key)}` in {where} is not a hyperparameter of any loss: {hint}")
        else:
            layer[key] = Setting(given, f"`{key}` in {where}")
    return layer | {"loss_kwargs": Setting(for_parts, where)} if for_parts else layer
