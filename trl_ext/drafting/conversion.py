"""Convert the settings of another program's file to those of a recipe: `trl-ext convert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trl_ext import foreign, losses
from trl_ext.foreign.dialect import Dialect
from trl_ext.foreign.meaning import Meaning, written
from trl_ext.methods import METHODS, TRAINERS
from trl_ext.recipe.choice.trl_file import VERBS
from trl_ext.recipe.schema import MISSING
from trl_ext.recipe.vocabulary import known_keys
from trl_ext.support import messages
from trl_ext.support.errors import UserError

LOSS_SPELLINGS = ("loss_type", "loss_weights")
"""Settings of TRL that `loss` replaces."""

ONE_OF_A_KIND = {
    "loss": "trainings",
    "trainer": "trainings",
    "model_name_or_path": "models",
    "dataset_name": "datasets",
    "datasets": "datasets",
}
"""Settings that decide what is trained, and what two keys name that give different values of one."""


@dataclass
class Line:
    """One setting of the recipe.

    Attributes:
        value: Its value.
        source: The key of the file that gives it, or the path of the entry (``datasets[0].type``). Empty: it was added.
        key: That key alone.
        why: Sentences on what changed and why. Empty if nothing but the name did.
        is_unchanged: It has the name and the value that the file gives.
    """

    value: Any
    source: str = ""
    key: str = ""
    why: str = ""
    is_unchanged: bool = False


@dataclass
class Left:
    """A key, or an entry of its value, that the recipe does not have.

    Attributes:
        key: The key, or the path of the entry (``datasets[0].type``).
        why: Sentences that say why.
        matters: Training differs for the lack of it.
    """

    key: str
    why: str
    matters: bool


@dataclass
class Conversion:
    """The settings of a recipe, and what became of all other keys of the file.

    Attributes:
        dialect: The program that the file is written for; `None` for TRL.
        given: The settings of the file.
        settings: The settings of the recipe, in the order of the file.
        defaults: Defaults of the other program, which the recipe has to name.
        left: What the recipe does not have.
        prevented: Sentences that say why there is no recipe for the file; usually empty.
    """

    dialect: Dialect | None
    given: Mapping[str, Any] = field(default_factory=dict)
    settings: dict[str, Line] = field(default_factory=dict)
    defaults: dict[str, Line] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)
    prevented: list[str] = field(default_factory=list)

    def drop(self, key: str, why: str, *, matters: bool = True) -> None:
        """Take a setting out again, because it is refused with these sentences, or not read."""
        line = self.settings.pop(key, None) or self.defaults.pop(key)
        why = why.removesuffix(" Remove it.")  # it is removed
        if line.source in ("", key):
            self.left.append(Left(key, why, matters))
        else:
            meaning = f"It means `{key}`, which is {'refused' if matters else 'not read'} here."
            self.left.append(Left(line.source, f"{meaning} {why}", matters))


def convert(values: Mapping[str, Any], trainer: str | None = None) -> Conversion:
    """Convert the top-level settings of a file.

    Args:
        values: The file's settings.
        trainer: What it trains, as a value of `trainer`, if the file itself does not say it.

    Raises:
        UserError: There is no such `trainer`.
    """
    there = [*{*TRAINERS, *losses.available()}]
    if trainer is not None and trainer.lower() not in there:
        raise UserError(f"`--trainer` is {messages.shown(trainer)}: {messages.one_of(trainer, there)}")
    trainer = trainer and trainer.lower()
    given = dict(values) | ({"trainer": trainer} if trainer else {})
    dialect = foreign.recognise(given)
    defaults = {} if dialect is None else {k: v for k, v in dialect.defaults(given).items() if k not in given}
    every = {**defaults, **given}
    made = Conversion(dialect, given)
    for key, value in given.items():
        _convert_key(key, value, every, made, made.settings, is_default=False)
    for key, value in defaults.items():
        _convert_key(key, value, every, made, made.defaults, is_default=True)
    _name_the_loss(made, trainer)
    if trainer is not None:
        _check_flag(made, trainer)
    if "loss" in {*made.settings, *made.defaults}:
        for key in LOSS_SPELLINGS:
            made.settings.pop(key, None)
    for key in [key for key, line in made.defaults.items() if _is_default_here(key, line.value, made)]:
        del made.defaults[key]
    for key in [key for key in ("loss", "trainer") if key in made.defaults]:  # what is trained comes first
        why = f"The default of {dialect.name}. {made.defaults[key].why}".rstrip()
        made.settings = {key: Line(made.defaults.pop(key).value, why=why)} | made.settings
    return made


def _name_the_loss(made: Conversion, flag: str | None) -> None:
    """Write a `trainer` that stands for a loss as that loss, before the other settings."""
    line = made.settings.get("trainer")
    if line is None or not isinstance(line.value, str):
        return
    if flag is not None and line.source == "trainer":
        line.source, line.key, line.why, line.is_unchanged = "", "", f"`--trainer {flag}`.", False
    if line.value in losses.available() and line.value not in TRAINERS:
        named = {"loss", "loss_type"} & {*made.settings, *made.defaults}
        del made.settings["trainer"]
        if not named:
            made.settings = {"loss": Line(line.value, why=line.why)} | made.settings
        elif line.value == "cpo" and (shape := _shape_of_cpo(made)) is not None:
            made.settings["loss"] = shape
            made.settings.pop("cpo_alpha" if shape.value != "cpo" else "", None)
        else:
            _check_trainer(made, line.value, line.why.rstrip(".") or f"`trainer: {line.value}`")


def _shape_of_cpo(made: Conversion) -> Line | None:
    """What TRL's CPO trains for a `loss_type`; `None` for one that only other trainers have."""
    named = (made.settings.get("loss_type") or Line(None)).value
    if named == "sigmoid":
        return Line("cpo", "loss_type", "loss_type", "It is the shape of CPO's own loss.")
    if named not in ("simpo", "alphapo"):
        return None
    weight = made.given.get("cpo_alpha", 1.0)
    why = "TRL's CPO adds the negative log-likelihood of the chosen completions times `cpo_alpha` (default: 1)."
    return Line({named: 1, "sft": weight} if weight else named, "loss_type", "loss_type", why)


def _check_flag(made: Conversion, flag: str) -> None:
    """Report a `--trainer` that the file's own program does not read, unless the file says the same."""
    unread = next((left for left in made.left if left.key == "trainer"), None)
    if unread is not None:
        made.left.remove(unread)
        _check_trainer(made, flag, f"`--trainer {flag}`")


def _check_trainer(made: Conversion, wanted: str, stated: str) -> None:
    """Prevent a recipe if the file names something else to train than `wanted`, which is a value of `trainer`."""
    there = {**made.defaults, **made.settings}
    key = next((key for key in ("trainer", "loss", "loss_type") if key in there), None)
    if key is None or _trains(key, there[key].value, wanted):
        return
    line = there[key]
    own = written({line.key: made.given[line.key]}) if line.key in made.given else ""
    says = own or f"{written({key: line.value})} (the default of {made.dialect.name if made.dialect else 'TRL'})"
    made.prevented.append(f"{stated} and {says} name different trainings. Keep one of them.")


def _trains(key: str, named: Any, wanted: str) -> bool:
    """Whether a `trainer`, a `loss` or a `loss_type` is one of the training that `wanted` names."""
    if key == "trainer" or wanted in TRAINERS:
        return key == "trainer" and named == wanted
    try:
        names = [*named] if isinstance(named, (dict, list)) else [named]
        known, asked = [losses.describe(name) for name in names], losses.describe(wanted)
    except (TypeError, ValueError):  # `validate` reports an unknown name
        return True
    return all(info.paired == VERBS[wanted] for info in known) if wanted in VERBS else asked in known


def _convert_key(
    key: str, value: Any, every: Mapping[str, Any], made: Conversion, into: dict[str, Line], *, is_default: bool
) -> None:
    """Convert one key into the settings `into` of a conversion."""
    is_setting = any(key in known_keys(kind) for kind in METHODS)
    means = foreign.meanings(key, value, every, made.dialect, is_setting=is_setting)
    if not means and is_setting:
        if value is None and not _may_be_empty(key):
            means = (Meaning(reason="it is empty, so the default applies"),)
        else:
            means = (Meaning({key: value}),)
    if not means:
        near = messages.nearest(key, known_keys())
        hint = f" Did you mean `{near[0]}`?" if near else ""
        made.left.append(Left(key, f"trl-ext does not know this key.{hint}", matters=True))
    for meaning in means:
        name = meaning.part or key
        if meaning.prevents:
            made.prevented.append(f"{written({key: value})}: {meaning.sentence}")
        if not meaning.settings and not is_default:
            why = " ".join(
                filter(
                    None,
                    [
                        meaning.explanation,
                        f"{meaning.advice[:1].upper()}{meaning.advice[1:]}." if meaning.advice else "",
                    ],
                )
            )
            made.left.append(Left(name, why, matters=bool(meaning.changes)))
        for setting, wanted in meaning.settings.items():
            line = Line(wanted, name, key, meaning.explanation, is_unchanged=setting == name and wanted == value)
            _put(setting, line, made, into, is_default=is_default)


def _put(setting: str, line: Line, made: Conversion, into: dict[str, Line], *, is_default: bool) -> None:
    """Add a setting. Two keys may give the same one: mappings are merged, otherwise the first counts."""
    there = made.settings.get(setting) or into.get(setting)
    if there is None:
        into[setting] = line
    elif isinstance(there.value, dict) and isinstance(line.value, dict) and setting != "loss":
        there.value, there.is_unchanged = {**line.value, **there.value}, False
    elif there.value != line.value and not is_default and setting in ONE_OF_A_KIND:
        both = [written({one.key: made.given[one.key]}) for one in (there, line) if one.key in made.given]
        made.prevented.append(f"{' and '.join(both)} name different {ONE_OF_A_KIND[setting]}. Keep one of them.")
    elif there.value != line.value and not is_default:
        why = f"`{there.source}` already gives `{setting}`, another value of which is kept."
        made.left.append(Left(line.source, why, matters=True))


def _may_be_empty(key: str) -> bool:
    fields = [keys[key] for keys in map(known_keys, METHODS) if key in keys]
    return any(field is None or field.kinds & {"None", "Any"} for field in fields)


def _is_default_here(key: str, value: Any, made: Conversion) -> bool:
    """Whether a default of the other program is the default of the recipe too."""
    trainer = (made.settings.get("trainer") or made.defaults.get("trainer") or Line(None)).value
    kind = trainer if isinstance(trainer, str) and trainer in METHODS else "paired"
    field = known_keys(kind).get(key)
    return (
        field is not None
        and field.default is not MISSING
        and field.default == value
        and type(field.default) is type(value)
    )
