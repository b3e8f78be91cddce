"""Rules about runs that would take no step, as far as the number of rows is known without loading data.

`trl_ext.build.duration` counts the rows of a run. Here they are counted in a local file that is read whole anyway, before any
row is dropped, so they are the most that a run can have.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext import demo
from trl_ext.checks.advantage import completions_per_prompt
from trl_ext.checks.evaluation import happens
from trl_ext.checks.rule import is_policy_gradient, problem, samples_pairs
from trl_ext.checks.settings import Settings
from trl_ext.data.files.first_rows import first_rows
from trl_ext.data.files.problems import QUICK
from trl_ext.demo import EMBEDDED
from trl_ext.methods import Method
from trl_ext.support.counts import count


def has_rows(method: Method) -> bool:
    """Whether its batches are made of the rows of the data."""
    return not method.samples_completions


@problem(
    "dataloader_drop_last", "per_device_train_batch_size", "dataset_name", "datasets", "max_train_samples", "dataset_columns",
    applies_to=has_rows, recipe_only=True,
)  # fmt: skip
def no_full_batch(s: Settings) -> Iterator[str]:
    if not s["dataloader_drop_last"]:
        return
    rows, size = _most_rows(s), s["per_device_train_batch_size"]
    if rows is None or not _is_count(size):
        return
    if s.method.reads == "labelled":
        rows *= 2  # a pair becomes two completions
    if rows < size * _processes():
        yield (
            f"{s.where('dataloader_drop_last')} drops batches that are not full. The training data has at most "
            f"{count(rows, s.method.unit)}, and a batch has {size:,} (`per_device_train_batch_size`)"
            f"{_each_process()}, so no step would be taken. Remove `dataloader_drop_last`, or lower the batch size."
        )


OF_A_ROLLOUT = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size",
    "num_generations", "dataset_name", "datasets", "max_train_samples", "dataset_columns",
)  # fmt: skip


@problem(*OF_A_ROLLOUT, applies_to=samples_pairs, recipe_only=True)
def no_rollout_of_pairs(s: Settings) -> Iterator[str]:
    yield from _no_rollout(s, s["num_generations"])


@problem(*OF_A_ROLLOUT, "advantage", applies_to=is_policy_gradient, recipe_only=True)
def no_rollout(s: Settings) -> Iterator[str]:
    yield from _no_rollout(s, completions_per_prompt(s))


def _no_rollout(s: Settings, groups: int | None) -> Iterator[str]:
    each = s["per_device_train_batch_size"]
    micro_batches = s["steps_per_generation"] or s["gradient_accumulation_steps"]
    if not all(map(_is_count, (each, groups, micro_batches))):
        return
    completions = s["generation_batch_size"] or each * micro_batches * _processes()
    rows, needed = _most_rows(s), completions // groups if _is_count(completions) else 0
    if rows is not None and rows < needed:
        yield (
            f"The training data has at most {count(rows, 'prompts')}, and a rollout needs {needed:,}: {completions:,} completions, "
            f"{groups} for each prompt. No step would be taken. Give more prompts, or lower "
            "`per_device_train_batch_size`, `gradient_accumulation_steps` or `steps_per_generation`."
        )


@problem(
    "dataloader_drop_last", "per_device_eval_batch_size", "eval_strategy", "eval_on_start", "eval_size", "max_eval_samples",
    applies_to=has_rows,
    recipe_only=True,
)  # fmt: skip
def no_full_evaluation_batch(s: Settings) -> Iterator[str]:
    if not s["dataloader_drop_last"] or not (happens(s) or s["eval_on_start"]):
        return
    limits = {key: s[key] for key in ("eval_size", "max_eval_samples") if _is_count(s[key])}
    size = s["per_device_eval_batch_size"]
    if not limits or not _is_count(size):
        return
    key = min(limits, key=limits.get)
    rows = int(limits[key]) * (2 if s.method.reads == "labelled" else 1)
    if rows < size * _processes():
        yield (
            f"{s.where('dataloader_drop_last')} drops batches that are not full. The evaluation data has at most "
            f"{count(rows, s.method.unit)} (`{key}`), and a batch has {size:,} (`per_device_eval_batch_size`)"
            f"{_each_process()}, so nothing would be evaluated. Remove `dataloader_drop_last`, or lower "
            "`per_device_eval_batch_size`."
        )


def _most_rows(s: Settings) -> int | None:
    """The most rows that a run can have; `None` if that is not known without loading the data."""
    name, limit = s["dataset_name"], s["max_train_samples"]
    found = [int(limit)] if _is_count(limit) else []
    if isinstance(name, str) and name and not s["datasets"]:
        found += _in_file(demo.DATA / "train.jsonl" if name == EMBEDDED else Path(name).expanduser(), s)
    return min(found, default=None)


def _in_file(path: Path, s: Settings) -> list[int]:
    """The number of rows in a small file, if each is one example."""
    try:
        if not path.is_file() or path.stat().st_size > QUICK:
            return []
    except OSError:
        return []
    rows = first_rows(path, QUICK)
    columns = s["dataset_columns"] if isinstance(s["dataset_columns"], dict) else {}
    names = {*columns, *(rows[0] if rows else ())}
    # Formats with several completions may make several pairs of a row.
    is_one_each = not s.method.reads_preferences or {"chosen", "rejected"} <= names or "label" in names
    return [len(rows)] if rows and is_one_each else []


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _each_process() -> str:
    return f" on each of {_processes()} processes" if _processes() > 1 else ""
