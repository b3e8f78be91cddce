"""Rules about `search`, what `trl-ext search` varies and how it decides."""

import math
from collections.abc import Iterator
from typing import Any

from trl_ext import losses
from trl_ext.checks import judge_source, search_space
from trl_ext.checks.data import dataset_path
from trl_ext.checks.rule import note, problem
from trl_ext.checks.search_space import OF_ADAPTERS
from trl_ext.checks.settings import Settings
from trl_ext.model_files import adapter
from trl_ext.support import messages
from trl_ext.support.messages import shown_text

ACCURACY = "accuracy"
"""The measure that is no reward and no judge."""
OF_JUDGES = ("judge_model", "judge_base_url", "judge_template")
LEAST = {"trials": 1, "samples": 8, "limit": 8, "max_new_tokens": 1, "reduction_factor": 2, "rungs": 1, "seed": 0}
"""The smallest value of each whole number."""
MOST_RUNGS = 6
USUAL = ("loss", "beta", "learning_rate", "num_train_epochs", "max_steps")
"""Settings that a search usually varies, besides those of the adapter."""


def _values(s: Settings) -> dict[str, Any] | None:
    """The block; `None` if there is none."""
    return s["search"] if isinstance(s["search"], dict) else None


def _where(s: Settings, key: str) -> str:
    return s.where(f"search.{key}")


@problem("search", recipe_only=True)
def kind_of_training(s: Settings) -> Iterator[str]:
    if _values(s) is not None and not s.method.is_default:
        yield (
            f"{s.where('search')} is read by `trl-ext search`, which varies the training of a preference loss on data. This recipe has "
            f"`trainer: {s.method.name}`. Remove it."
        )


@problem("search", recipe_only=True)
def numbers(s: Settings) -> Iterator[str]:
    values = _values(s) or {}
    for key, least in LEAST.items():
        if values.get(key) is not None and values[key] < least:
            yield f"{_where(s, key)} is {values[key]}: give a whole number of at least {least}."
    for key in ("max_kl", "hours"):
        if values.get(key) is not None and not (math.isfinite(values[key]) and values[key] > 0):
            yield f"{_where(s, key)} is {values[key]}: give a number greater than 0."
    if (values.get("rungs") or 1) > MOST_RUNGS:
        yield f"{_where(s, 'rungs')} is {values['rungs']}: give at most {MOST_RUNGS}."
    if values.get("pruner") == "none" and (
        unread := [key for key in ("reduction_factor", "rungs") if values.get(key)]
    ):
        yield f"{messages.joined([_where(s, key) for key in unread])}: `pruner: none` stops no trial early, so this is not read. Remove it."


@problem("search", "model_name_or_path", recipe_only=True)
def measure(s: Settings) -> Iterator[str]:
    values = _values(s) or {}
    name = values.get("measure")
    given = [key for key in OF_JUDGES if values.get(key) is not None]
    if name is None or name == ACCURACY:
        if given:
            yield f"{_where(s, given[0])} needs a judge. Name it as {_where(s, 'measure')}, or remove the setting."
        if name == ACCURACY or values.get("limit") is None:
            return
    elif values.get("limit") is not None:
        yield f"{_where(s, 'limit')} is the number of rows for `accuracy`, and {_where(s, 'measure')} is {shown_text(name)}. Remove it."
    if name is None:
        return
    base = adapter.base_name(s["model_name_or_path"])
    if (end := judge_source.problem(name, model=values.get("judge_model"), base=base)) is not None:
        said = end.replace("which is not a judge.", "which is neither `accuracy` nor a reward or judge.")
        yield f"{_where(s, 'measure')} is {shown_text(name)}, {said}"
    elif given and judge_source.parse(name).kind not in ("api", "model", "hub"):
        yield f"{_where(s, given[0])} is read by an API or a chat model, and {_where(s, 'measure')} is {shown_text(name)}. Remove it."


@problem("search", recipe_only=True)
def data(s: Settings) -> Iterator[str]:
    values = _values(s) or {}
    if values.get("dataset") is not None and (end := dataset_path(values["dataset"])):
        yield f"{_where(s, 'dataset')} {end}"


@problem("search", "use_peft", recipe_only=True)
def space(s: Settings) -> Iterator[str]:
    values = _values(s) or {}
    given = values.get("space")
    if given is None or not s.method.is_default:
        return
    where = _where(s, "space")
    if not given:
        yield f"{where} is empty. Name settings and their ranges, or remove it."
    for place, end in search_space.problems(given):
        yield f"`{shown_text(place)}` in {where} {end}"
    names = given.get("loss")
    chosen: list[str] = []
    for name in (names if isinstance(names, list) else [names]) if names not in (None, search_space.AUTO) else []:
        try:
            chosen.append(losses.describe(str(name)).name)
        except ValueError as error:
            yield f"`loss` in {where}: {error}"
    for key in given:
        if key != "loss" and key not in search_space.FIXED:
            yield from _about(s, str(key), given[key], chosen, where)


def _about(s: Settings, key: str, value: Any, chosen: list[str], where: str) -> Iterator[str]:
    """What is wrong with a setting of the space, by its name and the losses."""
    name = f"`{shown_text(key)}` in {where}"
    if search_space.is_by_loss(value):
        for loss in value:
            try:
                own = losses.describe(str(loss)).name
            except ValueError as error:
                yield f"{name}: {error}"
                continue
            if own not in (chosen or [s.loss.name if s.loss is not None else own]):
                yield f"{name} has a range for {own}, which is not searched. Add it to `loss`, or remove the range."
    readers = losses.readers(key)
    if readers:
        tried = chosen or ([s.loss.name] if s.loss is not None else [])
        if tried and not set(readers) & set(tried):
            yield f"{name} is a setting of {messages.joined(list(readers), 'or')}, and {messages.joined(tried)} does not read it. Remove it."
        return
    if key in OF_ADAPTERS:
        return
    if not s.has(key):
        near = messages.nearest(key, (*OF_ADAPTERS, *USUAL, *_hyperparameters()))
        yield f"{name} is not a setting: {f'did you mean `{near[0]}`?' if near else 'check its spelling, or remove it.'}"


def _hyperparameters() -> set[str]:
    return {key for name in losses.available() for key in losses.describe(name).hyperparameters}


@note("search", recipe_only=True)
def other_verbs(s: Settings) -> Iterator[str]:
    if _values(s) is not None:
        yield f"{s.where('search')} is read by `trl-ext search` alone. Every other command uses the settings of the recipe as they are."
