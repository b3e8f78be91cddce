"""The settings that a search varies: ranges from the recipe or by default, and the settings of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trl_ext import losses
from trl_ext.checks import search_space, usual_rates
from trl_ext.checks.search_space import OF_ADAPTERS, Interval, Range, Values
from trl_ext.losses import LossInfo
from trl_ext.recipe import Recipe, load, schema
from trl_ext.support.errors import UserError

DECADE = 10
"""A default interval reaches from a tenth of its centre to ten times it."""
RANKS = (8, 16, 32, 64)
EPOCHS = (1.0, 2.0, 3.0)
LOSSES_ON_PAIRS = ("dpo", "ipo", "simpo", "kto")
"""Losses that are tried if the recipe trains on pairs and names none."""
OFF: dict[str, Any] = {"search": None, "evaluation": False}
"""What a trial's recipe leaves out."""
DIGITS = 3
"""Significant digits of a number that is tried."""

Suggest = Any
"""A trial of Optuna: `suggest_float`, `suggest_int` and `suggest_categorical`."""


@dataclass(frozen=True)
class Space:
    """What is varied.

    Attributes:
        ranges: The range of each setting, by loss. The loss is "" if it is not varied.
    """

    ranges: Mapping[str, Mapping[str, Range]]

    @property
    def losses(self) -> list[str]:
        """The losses that are tried; none if the loss is not varied."""
        return [name for name in self.ranges if name]

    @property
    def size(self) -> int | None:
        """Number of combinations of settings; `None` if there are infinitely many."""
        found = [each for ranges in self.ranges.values() for each in ranges.values()]
        if any(isinstance(each, Interval) for each in found):
            return None
        return sum(math.prod(len(each.values) for each in ranges.values()) for ranges in self.ranges.values())

    def name(self, loss: str, key: str) -> str:
        """The name of a parameter: the setting, with the loss before it if losses have different ranges for it."""
        found = {each[key] for each in self.ranges.values() if key in each}
        return key if len(found) == 1 else f"{loss}.{key}"

    def suggest(self, trial: Suggest) -> dict[str, Any]:
        """The settings of a trial, as flags would give them."""
        names = self.losses
        loss = trial.suggest_categorical("loss", names) if len(names) > 1 else next(iter(self.ranges))
        keys = {"loss": loss} if loss else {}
        return keys | {
            key: _suggest(trial, self.name(loss, key), key, each) for key, each in self.ranges[loss].items()
        }

    def parameters(self, recipe: Recipe) -> dict[str, Any] | None:
        """The parameters that stand for a recipe's own settings; `None` if one of them is not in its range."""
        loss = recipe.loss if recipe.loss in self.ranges else ""
        if loss not in self.ranges:
            return None
        found = {"loss": loss} if len(self.losses) > 1 else {}
        for key, each in self.ranges[loss].items():
            value = own(recipe, key)
            if value not in each.values if isinstance(each, Values) else not _is_in(value, each):
                return None
            found[self.name(loss, key)] = value
        return found

    def in_words(self) -> list[str]:
        """A line per setting."""
        lines = [f"loss: {', '.join(self.losses)}"] if len(self.losses) > 1 else []
        names = {self.name(loss, key): each for loss, ranges in self.ranges.items() for key, each in ranges.items()}
        return lines + [f"{name}: {each}" for name, each in names.items()]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {loss: {key: str(each) for key, each in ranges.items()} for loss, ranges in self.ranges.items()}


def make(path: str, overrides: Mapping[str, Any], recipe: Recipe, names: list[str] | None) -> Space:
    """The space of a recipe.

    Args:
        path: The recipe.
        overrides: Recipe keys given by flags. A key given there is not varied.
        recipe: It, loaded.
        names: Losses given by a flag.

    Raises:
        UserError: A range cannot work; lists every problem.
    """
    given = (recipe.search or {}).get("space")
    chosen = _losses(recipe, given, names, overrides)
    asked = {
        key: value
        for key, value in (given or dict.fromkeys(_usual(recipe), search_space.AUTO)).items()
        if key != "loss"
    }
    problems, ranges = [], {}
    for loss in chosen or [""]:
        try:
            own_recipe = load(path, {**overrides, **OFF, **({"loss": loss} if loss else {})}, to_train=True)
        except UserError as error:
            problems += [f"loss {loss}: {problem}" for problem in error.problems]
            continue
        ranges[loss] = {
            key: found for key in asked if (found := _range(own_recipe, key, asked[key], overrides)) is not None
        }
    if asked.get("learning_rate") == search_space.AUTO:
        _share_rate(ranges)
    space = Space(ranges)
    problems += _problems(path, overrides, space, set(given or ()))
    if not problems and space.size == 1:
        problems.append(
            "Nothing is left to vary: every setting has one value. Give one of them a range in `search.space`, or remove a flag that "
            "fixes one."
        )
    if problems:
        raise UserError(list(dict.fromkeys(problems)), about=str(path))
    return space


def own(recipe: Recipe, key: str) -> Any:
    """The value that a recipe has for a setting, defaults included."""
    if isinstance(recipe.info, LossInfo) and key in recipe.info.hyperparameters:
        return recipe.info.fill(recipe.loss_kwargs)[key]
    return recipe.effective(key)


def _losses(recipe: Recipe, given: Any, names: list[str] | None, overrides: Mapping[str, Any]) -> list[str]:
    """The losses that are tried; none for a mix, or if the space leaves the loss as it is."""
    asked: Any = names or ((given or {}).get("loss", None if given else search_space.AUTO))
    if "loss" in overrides:
        if names:
            raise UserError("`--loss` sets one loss, and `--losses` names those to try. Remove one of them.")
        asked = None
    if asked is None:
        return []
    if asked == search_space.AUTO:
        if not isinstance(recipe.loss, str) or not recipe.paired or "gold" in recipe.info.columns:
            return []
        return list(dict.fromkeys([recipe.loss, *LOSSES_ON_PAIRS]))
    try:
        return list(
            dict.fromkeys(losses.describe(str(name)).name for name in (asked if isinstance(asked, list) else [asked]))
        )
    except ValueError as error:
        raise UserError(f"`--losses`: {error}") from error


def _usual(recipe: Recipe) -> list[str]:
    """The settings that are varied if the recipe names none."""
    return [
        "beta",
        "learning_rate",
        "lora_r",
        "max_steps" if recipe.effective("max_steps") > 0 else "num_train_epochs",
    ]


def _range(recipe: Recipe, key: str, given: Any, overrides: Mapping[str, Any]) -> Range | None:
    """The range of a setting for the loss of a recipe; `None` if it is not varied for it."""
    if key in overrides:
        return None
    if losses.readers(key) and key not in getattr(recipe.info, "hyperparameters", ()):
        return None
    if search_space.is_by_loss(given):
        by_loss = {losses.describe(str(name)).name: each for name, each in given.items()}
        if recipe.loss not in by_loss:
            return None
        given = by_loss[recipe.loss]
    found = search_space.read(given)
    return default(recipe, key) if found is None else found


def default(recipe: Recipe, key: str) -> Range | None:
    """The default range: a decade on either side of the recipe's value, or of the usual value for its loss."""
    value = own(recipe, key)
    if key == "learning_rate":
        centre = value if key in recipe.values else usual_rate(recipe)
        return Interval(rounded(centre / DECADE), min(rounded(centre * DECADE), 1.0), True)
    if key == "lora_r":
        return Values(tuple(sorted({*RANKS, value})))
    if key == "num_train_epochs":
        return Values(tuple(sorted({*EPOCHS, float(value)})))
    if key == "max_steps" and value > 0:
        return Interval(max(1, value // 4), 2 * value, True)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return Interval(rounded(value / DECADE), rounded(value * DECADE), True)
    return None


def _share_rate(ranges: dict[str, dict[str, Range]]) -> None:
    """Let all losses have one range of learning rates, so that a trial of one loss says something about the others."""
    found = [each["learning_rate"] for each in ranges.values() if "learning_rate" in each]
    for each in ranges.values():
        if "learning_rate" in each:
            each["learning_rate"] = Interval(min(r.low for r in found), max(r.high for r in found), True)


def usual_rate(recipe: Recipe) -> float:
    """The middle of the usual learning rates for a recipe's loss and adapter, on a logarithmic scale."""
    low = usual_rates.smallest(recipe.method, recipe.info)
    if recipe.get("model_name_or_path") == "embedded":
        return usual_rates.OF_A_TINY_MODEL
    factor = usual_rates.factor(
        recipe.effective("lora_alpha"), recipe.effective("lora_r"), uses_rslora=recipe.effective("use_rslora")
    )
    return low * math.sqrt(usual_rates.SPAN) * factor


def rounded(value: float) -> float:
    """A number with `DIGITS` significant digits, as it is tried and written into the result."""
    return float(f"{value:.{DIGITS}g}")


def _problems(path: str, overrides: Mapping[str, Any], space: Space, given: set[str]) -> list[str]:
    """A sentence for each end of a range that the recipe refuses."""
    found = []
    for loss, ranges in space.ranges.items():
        for key, each in ranges.items():
            if key not in given:
                continue
            if key in {**schema.model(), **schema.data()} and key not in OF_ADAPTERS:
                found.append(
                    f"`{key}` in `search.space` cannot be varied: trials share the base and the data. Remove it."
                )
                continue
            for value in each.ends:
                try:
                    load(path, {**overrides, **OFF, **({"loss": loss} if loss else {}), key: value}, to_train=True)
                except UserError as error:
                    found += [f"`{key}` in `search.space`, at {value}: {problem}" for problem in error.problems]
    return found


def _suggest(trial: Suggest, name: str, key: str, each: Range) -> Any:
    if isinstance(each, Values):
        return trial.suggest_categorical(name, each.values) if len(each.values) > 1 else each.values[0]
    if _is_whole(key):
        return trial.suggest_int(name, math.ceil(each.low), math.floor(each.high), log=each.is_log)
    return rounded(trial.suggest_float(name, each.low, each.high, log=each.is_log))


def _is_whole(key: str) -> bool:
    """Whether a setting is a whole number."""
    fields = schema.training("paired") | schema.training("unpaired") | schema.model()
    return key in fields and "int" in fields[key].kinds and "float" not in fields[key].kinds


def _is_in(value: Any, each: Interval) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and each.low <= value <= each.high
