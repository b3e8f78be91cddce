"""One layer of settings made clean: only keys that exist, every value in its type."""

from collections.abc import Iterable

from trl_ext import schema
from trl_ext.recipe.obsolete import STANDS_FOR, remedy
from trl_ext.recipe.settings import Layer, Setting
from trl_ext.recipe.vocabulary import hyperparameters, known_keys, nearest


def known(layer: Layer, problems: list[str]) -> Layer:
    """The layer without keys that are no settings, ``no_key`` read as false, and `loss_kwargs` unfolded."""
    allowed = known_keys()
    kept: Layer = {}
    for key, setting in layer.items():
        switch = allowed.get(key.removeprefix("no_"))
        if key in allowed:
            kept[key] = setting
        elif key.startswith("no_") and switch is not None and "bool" in switch.kinds and setting.value is True:
            kept[switch.name] = Setting(False, setting.where)
        elif (instead := remedy(key, setting.value)) is not None:
            problems.append(f"{setting.where} is not a setting here: {instead}.")
        else:
            near = " or ".join(f"`{name}`" for name in nearest(key))
            hint = f"did you mean {near}?" if near else "check its spelling, or remove it."
            problems.append(f"{setting.where} is not a setting: {hint}")
    return _unfold(kept, problems)


def meant(keys: Iterable[str]) -> set[str]:
    """What keys that are no settings were probably meant to be: it need not be called missing as well."""
    allowed = known_keys()
    near = {key: STANDS_FOR.get(key) or next(iter(nearest(key)), None) for key in keys if key not in allowed}
    return {setting for setting in near.values() if setting}


def typed(layer: Layer, paired: bool | None, problems: list[str]) -> Layer:
    """The layer with every value in its setting's type; without the values that have another."""
    allowed = known_keys(paired)
    kept: Layer = {}
    for key, (value, where) in layer.items():
        field = allowed[key]
        try:
            kept[key] = Setting(value if field is None else schema.convert(field, value), where)
        except ValueError as error:
            problems.append(f"{where} {error}")
    return kept


def _unfold(layer: Layer, problems: list[str]) -> Layer:
    """Hyperparameters in `loss_kwargs` as keys of their own; what is meant for one part of a mix stays."""
    value, where = layer.pop("loss_kwargs", Setting(None, ""))
    if value is None:
        return layer
    if not isinstance(value, dict):
        problems.append(
            f"{where} is {schema.shown(value)}: give a mapping, for instance `loss_kwargs: {{beta: 0.1}}`."
        )
        return layer
    for_parts = {key: part for key, part in value.items() if isinstance(part, dict)}
    for key, given in value.items():
        if key in for_parts:
            continue
        if key in layer and layer[key].value != given:
            problems.append(f"{layer[key].where} is {layer[key].value} and {given} in {where}: keep one of them.")
        elif key not in hyperparameters():
            near = schema.nearest(str(key), hyperparameters())
            hint = f"did you mean `{near[0]}`?" if near else "`trl-ext losses` lists them."
            problems.append(f"`{key}` in {where} is not a hyperparameter of any loss: {hint}")
        else:
            layer[key] = Setting(given, f"`{key}` in {where}")
    return layer | {"loss_kwargs": Setting(for_parts, where)} if for_parts else layer
