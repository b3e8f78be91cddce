"""Which settings of an evaluation belong to which part of it: a judge, tasks, or held-out preferences.

`trl-ext eval` and the `evaluation` of a recipe have the same settings, so the rules about them stand here once. A sentence names
a setting by what `where` returns for it: `` `--judge` `` for a flag, `` `evaluation.judge` (line 5) `` for a recipe.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trl_ext.checks import judge_api, judge_source, judge_template, prompts_file, reward_names, task_names
from trl_ext.checks.data import dataset_path
from trl_ext.support.counts import count
from trl_ext.support.messages import joined, shown, shown_text
from trl_ext.support.paths import in_full

Values = Mapping[str, Any]
Where = Callable[[str], str]

OF_API = tuple(
    f"judge_{name}" for name in ("model", "base_url", "concurrency", "timeout", "retries", "max_tokens", "temperature")
)
OF_TEXT_READERS = ("judge_template",)
OF_MODELS = ("judge_revision", "judge_load_in_4bit")
OF_JUDGES = (*OF_API, *OF_TEXT_READERS, *OF_MODELS)

DATA = ("dataset", "split", "dataset_columns")
JUDGE = "judge"
TASKS = "tasks"
PREFERENCES = "preferences"
READS = {
    JUDGE: ("judge", *OF_JUDGES, "prompts", *DATA, "samples", "max_new_tokens", "temperature", "seed"),
    TASKS: ("tasks", "limit", "num_fewshot", "apply_chat_template", "batch_size"),
    PREFERENCES: (*DATA, "limit", "samples", "max_new_tokens", "seed", "reward_funcs"),
}
"""The settings that each part reads."""

LEAST = {"samples": 0, "limit": 1, "max_new_tokens": 1, "num_fewshot": 0, "batch_size": 1}
"""The smallest value of each whole number."""
MOST_JUDGES = 2


def parts(values: Values) -> list[str]:
    """The parts of an evaluation: those of `judge` and `tasks`, or else preferences."""
    return [part for part in (JUDGE, TASKS) if is_given(values, part)] or [PREFERENCES]


def settings_of(part: str, values: Values) -> dict[str, Any]:
    """The settings that one part reads."""
    return {key: value for key, value in values.items() if key in READS[part]}


def is_given(values: Values, key: str) -> bool:
    """Whether a setting is there. `false` is the same as leaving it out."""
    return values.get(key) is not None and values[key] is not False


def judges(values: Values) -> list[str]:
    """The names of the judges."""
    given = values.get("judge")
    return [str(name) for name in (given if isinstance(given, list) else [given]) if name is not None]


def in_words(values: Values) -> str:
    """The settings in one line, as a recipe has them."""
    return ", ".join(f"{key}: {_shown(value)}" for key, value in values.items()) or "held-out preferences"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def problems(values: Values, where: Where, base: str | None = None, *, is_whole: bool = True) -> Iterator[str]:
    """A sentence for each thing that cannot work.

    Args:
        values: The settings.
        where: How a sentence names a setting.
        base: Name or path of the base model, which a reward adapter has to share; not compared if `None`.
        is_whole: Whether these are all settings; else some got lost, so that no sentence says that one is missing.
    """
    yield from _numbers(values, where)
    if is_whole:
        yield from _unread(values, where)
    if JUDGE in parts(values):
        yield from _of_judges(values, where, base)
        if is_whole:
            yield from _unread_by_judges(values, where)
    if TASKS in parts(values):
        yield from (f"{where('tasks')} {end}" for end in task_names.problems(values["tasks"]))
    for name in values.get("reward_funcs") or []:
        if (end := reward_names.problem(str(name))) is not None:
            yield f"{where('reward_funcs')} names {shown_text(str(name))}, {end}"
        elif reward_names.parse(str(name)).kind == "model":
            yield f"{where('reward_funcs')} names {name}, a model. Samples are scored with functions only: name it as `judge`."
    if values.get("dataset") is not None and (end := dataset_path(values["dataset"])):
        yield f"{where('dataset')} {end}"


def _numbers(values: Values, where: Where) -> Iterator[str]:
    for key, least in LEAST.items():
        if values.get(key) is not None and values[key] < least:
            yield f"{where(key)} is {values[key]}: give a whole number of at least {least}."
    heat = values.get("temperature")
    if heat is not None and not (math.isfinite(heat) and heat >= 0):
        yield f"{where('temperature')} is {heat}: give a number of at least 0."
    for key in OF_API:
        if values.get(key) is not None and (end := judge_api.problem(key.removeprefix("judge_"), values[key])):
            yield f"{where(key)} {end}"


def _unread(values: Values, where: Where) -> Iterator[str]:
    """Settings that no part reads."""
    found = parts(values)
    read = {key for part in found for key in READS[part]}
    unread = [key for key in values if is_given(values, key) and key not in read]
    without_judge = [key for key in unread if key in READS[JUDGE]]
    if without_judge and TASKS not in found:
        yield f"{_named(without_judge, where)} {_needs(without_judge)} a judge. Add {where('judge')}, or remove {_it(without_judge)}."
        unread = [key for key in unread if key not in without_judge]
    if unread:
        what = joined([f"`{part}`" for part in found if part != PREFERENCES]) or "held-out preferences"
        hint = " A judge reads as many prompts as `samples` says." if unread == ["limit"] else ""
        if unread == ["limit"] or found != [PREFERENCES]:
            yield f"{_named(unread, where)} {'has' if len(unread) == 1 else 'have'} no effect with {what}.{hint} Remove {_it(unread)}."
        else:
            yield f"{_named(unread, where)} {_needs(unread)} tasks. Add {where('tasks')}, or remove {_it(unread)}."


def _of_judges(values: Values, where: Where, base: str | None) -> Iterator[str]:
    names = judges(values)
    if not all(name.strip() for name in names) or not names:
        yield f"{where('judge')} is empty. Name a judge, or remove it. {judge_source.WHAT}"
        return
    if len(names) > MOST_JUDGES:
        yield f"{where('judge')} names {count(len(names), 'judges')}. Name one, or two for their agreement."
    if len({*names}) < len(names):
        yield f"{where('judge')} names a judge twice. Name another one, or name it once."
    for name in dict.fromkeys(names):
        end = judge_source.problem(
            name, model=values.get("judge_model"), revision=values.get("judge_revision"), base=base
        )
        if end is not None:
            yield f"{where('judge')} is {shown_text(name)}, {end}"
    kinds = [judge_source.parse(name).kind for name in names]
    if values.get("judge_template") is not None:
        path = values["judge_template"]
        try:
            judge_template.read(Path(in_full(path)), needs_marks="api" in kinds)
        except ValueError as error:
            yield f"{where('judge_template')} is {shown_text(path)}, which {error}"
    yield from _of_prompts(values, where)


def _unread_by_judges(values: Values, where: Where) -> Iterator[str]:
    names = judges(values)
    kinds = {judge_source.parse(name).kind for name in names}
    read = {key for kind in kinds for key in READ_BY[kind]}
    for keys, needs in (
        (OF_API, "a judge behind an API"),
        (OF_TEXT_READERS, "a judge that reads text (an API or a language model)"),
        (OF_MODELS, "a judge that is loaded from a folder or the Hub"),
    ):
        unread = [key for key in keys if is_given(values, key) and key not in read]
        if unread:
            yield f"{_named(unread, where)} {_needs(unread)} {needs}, but {where('judge')} is {', '.join(names)}. Remove {_it(unread)}."


READ_BY = {
    "function": (),
    "reward": OF_MODELS,
    "model": (*OF_TEXT_READERS, *OF_MODELS),
    "hub": (*OF_TEXT_READERS, *OF_MODELS),
    "api": (*OF_API, *OF_TEXT_READERS),
    "nothing": OF_JUDGES,
}
"""The settings that each kind of judge reads, by the kinds of `judge_source`."""


def _of_prompts(values: Values, where: Where) -> Iterator[str]:
    given = [key for key in ("prompts", "dataset") if values.get(key) is not None]
    if len(given) == 2:
        yield f"{_named(given, where)} both name the data of the prompts. Remove one of them."
    if values.get("samples") == 0:
        yield f"{where('samples')} is 0, but a judge needs answers. Remove it, or give the number of prompts."
    for key in given[:1]:
        name = values[key]
        end = None if name.endswith(".txt") else dataset_path(name)
        if end is not None and key == "prompts":
            yield f"{where(key)} {end}"
        elif end is None and (end := prompts_file.problem(name, values.get("dataset_columns"))) is not None:
            yield f"{where(key)} is {shown(name)[1:-1]}, {end}"


def _named(keys: list[str], where: Where) -> str:
    return joined([where(key) for key in keys])


def _needs(keys: list[str]) -> str:
    return "needs" if len(keys) == 1 else "need"


def _it(keys: list[str]) -> str:
    return "it" if len(keys) == 1 else "them"
