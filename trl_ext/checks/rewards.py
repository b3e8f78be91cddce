"""Rules about rewards: their sources, weights, clipping and penalty."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.checks import reward_names
from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.data.recognise_file import columns_of_file
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import reward as reward_folder
from trl_ext.support import counts
from trl_ext.support.errors import UserError
from trl_ext.support.messages import shown_text


@problem("reward_funcs", "reward_adapter")
def sources(s: Settings) -> Iterator[str]:
    if not s["reward_funcs"] and not s["reward_adapter"] and not s.reported & {"reward_funcs", "reward_adapter"}:
        yield (
            f"`trainer: {s.method.name}` has no source of reward. Add `reward_funcs` (a known function, "
            "`rewards.py:function`, a sequence classifier) or `reward_adapter` (the folder of a reward model trained on the "
            "same base with `trainer: reward`)."
        )


@problem("reward_funcs")
def names(s: Settings) -> Iterator[str]:
    for name in s["reward_funcs"] or []:
        if (end := reward_names.problem(str(name))) is not None:
            yield f"{s.where('reward_funcs')} names {shown_text(str(name))}, {end}"


@problem("reward_funcs", "dataset_name", "datasets", "dataset_columns", recipe_only=True)
def columns(s: Settings) -> Iterator[str]:
    """Columns of a local file that a function reads; those of other data are known once they are loaded."""
    data = s["dataset_name"]
    if not isinstance(data, str) or s["datasets"]:
        return
    try:
        found = columns_of_file(Path(data).expanduser(), s["dataset_columns"])
    except UserError:
        return  # reported by `trl_ext.checks.first_rows`
    for name in map(str, s["reward_funcs"] or [] if found else []):
        for column in reward_names.columns_read(name) if reward_names.problem(name) is None else ():
            if column not in found or column in reward_names.NOT_PASSED:
                yield reward_names.without_column(
                    f"{s.where('reward_funcs')} names {name}, which", column, found, data
                )


@problem("reward_weights", "reward_funcs", "reward_adapter")
def weights(s: Settings) -> Iterator[str]:
    given, count = s["reward_weights"], len(s["reward_funcs"] or []) + bool(s["reward_adapter"])
    if given and count and len(given) != count:
        yield f"{s.where('reward_weights')} has {counts.count(len(given), 'weights')} for {counts.count(count, 'reward sources')}: give one for each."


@problem("reward_adapter", "model_name_or_path")
def adapter(s: Settings) -> Iterator[str]:
    """A trainer judges the folder itself, since it knows the model (`trl_ext.trainers.rollout.reward_adapter`)."""
    folder = s["reward_adapter"]
    if not folder or "reward_adapter" in s.reported:
        return
    if (end := reward_folder.problem(folder, adapter_folder.base_name(s["model_name_or_path"]))) is not None:
        yield f"{s.where('reward_adapter')} is {folder}, {end}"


@problem("mask_truncated_completions", "missing_eos_penalty")
def penalty_of_masked_completions(s: Settings) -> Iterator[str]:
    if s["mask_truncated_completions"] and s["missing_eos_penalty"]:
        yield (
            f"{s.where('mask_truncated_completions')} leaves completions without an end token out of the loss, so "
            f"{s.where('missing_eos_penalty')}, which applies only to them, has no effect. Keep one of the two settings."
        )


@problem("reward_clip_range")
def clip_range(s: Settings) -> Iterator[str]:
    low_high = s["reward_clip_range"]
    is_pair = isinstance(low_high, list | tuple) and len(low_high) == 2
    if low_high is not None and not (is_pair and all(map(_is_number, low_high)) and low_high[0] < low_high[1]):
        yield f"{s.where('reward_clip_range')} is {low_high}: give two numbers, the lower one first."


@note("reward_funcs")
def code_that_will_run(s: Settings) -> Iterator[str]:
    for name in map(str, s["reward_funcs"] or []):
        if reward_names.is_users_code(name) and reward_names.problem(name) is None:
            yield reward_names.statement(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
