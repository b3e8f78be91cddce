"""A recipe as a run records it, and how it differs from the one that another run recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trl_ext.checks import judge_source, reward_names, task_names
from trl_ext.data.template_choice import SETTING
from trl_ext.recipe import Recipe, load
from trl_ext.recipe.resolved import RESOLVED

PLACE = ("resume_from_checkpoint", "resume_changed", "output_dir")
"""Settings that say where a run is written and what it resumes from."""

OF_OTHER_VERBS = ("search",)
"""Settings that no run reads."""

AFTER_TRAINING = "evaluation"
"""The setting that training does not depend on."""

NOT_COMPARED = {*PLACE, AFTER_TRAINING, "row_tokens"}
"""Settings that do not tell two trainings apart; a run records the row length that it found."""


def without_location(recipe: Recipe) -> Recipe:
    """The recipe without the settings `PLACE` and `OF_OTHER_VERBS`, and with local paths made absolute."""
    values = {key: value for key, value in recipe.values.items() if key not in (*PLACE, *OF_OTHER_VERBS)}
    _make_absolute(values, "model_name_or_path", "dataset_name", "reward_adapter")
    if values.get("reward_funcs"):
        values["reward_funcs"] = [reward_names.absolute(name) for name in values["reward_funcs"]]
    if values.get(AFTER_TRAINING):
        values[AFTER_TRAINING] = _evaluation(values[AFTER_TRAINING])
    return replace(recipe, values=values)


def differences(recipe: Recipe, directory: Path) -> dict[str, tuple[Any, Any]]:
    """Settings of training that differ between the run in a directory and a recipe: the value that was, and the one that is.

    Raises:
        UserError: The run's recipe cannot be used any more: a file that it names is gone, say.
    """
    was = load(directory / RESOLVED, {AFTER_TRAINING: False}).values
    now = without_location(recipe).values
    keys = (was.keys() | now.keys()) - NOT_COMPARED
    if now.get(SETTING, "auto") == "auto":  # a run records what was done
        keys.discard(SETTING)
    return {key: (was.get(key), now.get(key)) for key in sorted(keys) if was.get(key) != now.get(key)}


def _evaluation(values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `evaluation` with local paths made absolute."""
    values = dict(values)
    _make_absolute(values, "prompts", "dataset", "judge_template")
    if judges := values.get("judge"):
        values["judge"] = (
            list(map(judge_source.absolute, judges)) if isinstance(judges, list) else judge_source.absolute(judges)
        )
    if values.get("tasks"):
        values["tasks"] = task_names.absolute(values["tasks"])
    if values.get("reward_funcs"):
        values["reward_funcs"] = [reward_names.absolute(name) for name in values["reward_funcs"]]
    return values


def _make_absolute(values: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if isinstance(values.get(key), str) and Path(values[key]).exists():
            values[key] = str(Path(values[key]).resolve())
