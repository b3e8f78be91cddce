"""Drop keys that are not settings, and report what to write instead."""

from collections.abc import Sequence

from trl_ext import foreign
from trl_ext.foreign.dialect import Dialect, Values
from trl_ext.foreign.meaning import Meaning
from trl_ext.methods import METHODS, Method
from trl_ext.recipe.choice.loss import SPELLINGS
from trl_ext.recipe.layers.layer import Layer, Layers, Setting
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.vocabulary import LOSS_KEYS, known_keys, trainers_of
from trl_ext.support import messages
from trl_ext.support.messages import joined

ONLY_IN_FILE = ("trainer", "variants", *SPELLINGS)
"""Keys that a variant cannot set, since they decide which variant is used."""


def drop_unknown_keys(layers: Layers, method: Method, problems: Problems) -> None:
    """Drop keys that a recipe of this method does not have; read ``no_KEY: true`` as ``KEY: false``.

    In a file of another program, keys that mean something else there are reported too.
    """
    known = known_keys(method.name)
    values = {key: setting.value for key, setting in (layers.file.settings | layers.flags.settings).items()}
    values |= {} if method.is_default else {"trainer": method.name}
    dialect = foreign.recognise(values)
    for layer in layers:
        kept: dict[str, Setting] = {}
        for key, setting in layer.settings.items():
            switch = known.get(key.removeprefix("no_"))
            if key in known and not _means_otherwise(key, setting, values, dialect if layer is layers.file else None):
                kept[key] = setting
            elif key.startswith("no_") and switch is not None and "bool" in switch.kinds and setting.value is True:
                kept[switch.name] = Setting(False, setting.place)
            else:
                _report(key, setting, values, dialect, method, problems, layer)
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


def _report(
    key: str,
    setting: Setting,
    values: Values,
    dialect: Dialect | None,
    method: Method,
    problems: Problems,
    layer: Layer,
) -> None:
    """Report what to do about a key that is dropped."""
    known = known_keys(method.name)
    is_setting = any(key in known_keys(kind) for kind in METHODS)
    means = foreign.meanings(key, setting.value, foreign.complete(values, dialect), dialect, is_setting=is_setting)
    if means:
        problems.names_foreign_keys = True
        layer.reported |= {name for meaning in means for name in meaning.settings}
    # The table of the file's own program knows what the whole file trains, which a recipe says by `trainer`.
    is_own = dialect is not None and key in dialect.means
    if means and (is_own or _applies(means, method)):
        fault = f"means something else in {dialect.name}" if key in known else "is not a setting here"
        for meaning in means:
            if is_own and dict(meaning.settings) == {key: setting.value}:
                continue  # a setting of what the file trains
            place = setting.place.of_part(meaning.part) if meaning.part else setting.place
            problems.add(place, f"{fault}: {meaning.sentence}")
        return
    near = messages.nearest(key, known)
    if not means:
        layer.reported |= set(near[:1])
    meant = joined([f"`{name}`" for name in near], "or")
    unknown = f"is not a setting: {f'did you mean {meant}?' if near else 'check its spelling, or remove it.'}"
    problems.add(setting.place, _owners(key, method) or unknown)


def _means_otherwise(key: str, setting: Setting, values: Values, dialect: Dialect | None) -> bool:
    """Whether a setting has another meaning in the program that the file is written for."""
    if dialect is None:
        return False
    means = dialect.read(key, setting.value, foreign.complete(values, dialect))
    is_off = setting.value is None or setting.value is False
    others = (meaning for meaning in means if dict(meaning.settings) != {key: setting.value})
    return any(meaning.settings or meaning.changes or not is_off for meaning in others)


def _applies(means: Sequence[Meaning], method: Method) -> bool:
    """Whether this method has every setting that the remedies name."""
    named = {name for meaning in means for name in meaning.settings}
    elsewhere = {key for other in METHODS for key in known_keys(other)} - set(known_keys(method.name))
    return not elsewhere & named


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
