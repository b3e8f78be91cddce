"""Describe a run from the files in its directory: what was trained on what, with which settings and commands, and how far."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.recipe import Recipe, in_words
from trl_ext.recipe.vocabulary import defaults
from trl_ext.report import metrics_file
from trl_ext.runs import finished
from trl_ext.support import run_log
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.support.messages import plain

HIDDEN = "…"
"""Written in place of a secret."""
SECRET_NAME = re.compile(r"key|token|secret|password", re.IGNORECASE)
"""Names of environment variables whose values are hidden."""
SECRET_FLAG = re.compile(r"(--hub_token[ =])\S+|(--env[ =])('(?:[^']|'\"'\"')*'|\S+)")
"""Flags of a command whose values are hidden. `--env` may set any variable."""


class Setting(NamedTuple):
    """A setting of a recipe, its value and the default, as a recipe writes them."""

    name: str
    value: str
    default: str


def state(directory: Path, recipe: Recipe) -> str:
    """How far the run is trained, in a sentence."""
    step, seconds = finished.last_step(directory), _seconds(directory)
    is_finished = finished.result(directory) is not None
    if step is None:
        return "" if is_finished else "The run has not finished and has logged no step."
    planned = recipe.effective("max_steps") or 0
    of = f" of {planned:,}" if planned > step else ""
    took = f" in {duration(seconds)}" if seconds is not None else ""
    if is_finished:
        return f"Trained for {step:,}{of} {_steps(planned if of else step)}{took}."
    return f"The run has not finished. It has logged step {step:,}{of}{took}."


def _steps(n: int) -> str:
    return count(n, "steps").rpartition(" ")[2]


def _seconds(directory: Path) -> float | None:
    metrics = directory / "metrics.jsonl"
    records = metrics_file.read(metrics) if metrics.exists() else []
    return max(
        (record["seconds"] for record in records if isinstance(record.get("seconds"), int | float)), default=None
    )


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def in_brief(recipe: Recipe) -> str:
    """What was trained on what, in a sentence."""
    model = _model(recipe)
    adapter = f", adapter: {model['adapter']}" if "adapter" in model else ""
    return f"{recipe.title} on {_data(recipe)}. Model: {model['model']}{adapter}."


def facts(recipe: Recipe) -> dict[str, str]:
    """What was trained on what: text by subject."""
    return {**_objective(recipe), "data": _data(recipe), **_model(recipe), **in_words.pace(recipe)}


def _objective(recipe: Recipe) -> dict[str, str]:
    method = recipe.method
    found = {"method": method.title}
    if recipe.loss is not None:
        found |= in_words.loss(recipe)
    elif method.objective:
        found = {"method": method.objective, **in_words.changes(recipe)}
    else:
        found |= {**in_words.advantage(recipe), **in_words.kl(recipe)}
    return found | ({"rewards": in_words.rewards(recipe)} if method.samples_completions else {})


def _data(recipe: Recipe) -> str:
    if mixture := recipe.get("datasets"):
        return " + ".join(
            str(entry.get("path", entry)) if isinstance(entry, dict) else str(entry) for entry in mixture
        )
    return f"{recipe.get('dataset_name')} [{recipe.effective('dataset_train_split')}], {recipe.method.reads}"


def _model(recipe: Recipe) -> dict[str, str]:
    try:
        return in_words.model_and_adapter(recipe)
    except (
        OSError,
        UserError,
        ValueError,
        KeyError,
    ):  # the adapter that training continued from is gone or was changed
        return {"model": f"{recipe.get('model_name_or_path')}"}


def settings(recipe: Recipe) -> tuple[list[Setting], list[Setting]]:
    """The settings that differ from their defaults, and all others.

    Hyperparameters of the loss are among them. Settings without a value are left out.
    """
    known = defaults(recipe.kind)
    filled = _hyperparameters(recipe)
    found = [
        Setting(name, _written(name, value), _written(name, known.get(name)))
        for name, value in {**known, **recipe.values}.items()
        if name not in filled and name != "loss_kwargs"
    ]
    found += [Setting(name, plain(value), plain(default)) for name, (value, default) in filled.items()]
    order = {name: number for number, name in enumerate(recipe.values)}
    changed = [each for each in found if each.value != each.default and (each.name in order or each.name in filled)]
    others = [each for each in found if each not in changed and each.value != "none"]
    return sorted(changed, key=lambda each: order.get(each.name, len(order))), sorted(others)


def _hyperparameters(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Value and default of each hyperparameter of the loss; in a mix, with the loss's name before it."""
    if recipe.loss is None:
        return {}
    values, given = recipe.info.hyperparameters, recipe.info.fill(recipe.loss_kwargs)
    return dict(_leaves(given, values))


def _leaves(given: dict[str, Any], default: dict[str, Any], name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key, value in given.items():
        if isinstance(value, dict):
            yield from _leaves(value, default.get(key) or {}, f"{name}{key}.")
        else:
            yield f"{name}{key}", (_none(value), _none(default.get(key)))


def _none(value: Any) -> Any:
    return "none" if value is None else value


def _written(name: str, value: Any) -> str:
    """A value as a recipe writes it, without secrets."""
    if value is None:
        return "none"
    if name == "hub_token":
        return HIDDEN
    if name == "env" and isinstance(value, dict):
        value = {key: HIDDEN if SECRET_NAME.search(str(key)) else each for key, each in value.items()}
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else plain(value)


def commands(directory: Path) -> list[tuple[str, str]]:
    """The commands that trained the run, each with its time, and the one that repeats it."""
    typed = [(when, SECRET_FLAG.sub(_hide, command)) for when, command in run_log.commands(directory)]
    return [*typed, ("repeat it", f"trl-ext run {directory / finished.RECIPE}")]


def _hide(match: re.Match) -> str:
    return f"{match[1] or match[2]}{HIDDEN}"


def machine(directory: Path) -> str:
    """Devices and versions of the packages, as far as they were recorded."""
    try:
        found = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
        devices = [f"{each['name']}, {each['memory_gib']} GiB" for each in found.get("devices") or []]
        versions = {"Python": found["python"], **found["packages"]}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return ""
    return "; ".join([*devices, ", ".join(f"{name} {version}" for name, version in versions.items())]) + "."
