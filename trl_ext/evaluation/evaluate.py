"""Evaluate a finished run beside the model it started from, on held-out preferences and sampled completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from trl_ext.build.config import training_config
from trl_ext.evaluation.reward_functions import RewardFunctions, reward_functions
from trl_ext.evaluation.rows import RowChoice, Rows, find_rows
from trl_ext.evaluation.samples import Sampling, evaluate_samples
from trl_ext.evaluation.scores import Scored, scorer
from trl_ext.runs import finished
from trl_ext.runs.load import open_model
from trl_ext.runs.loaded import Opened
from trl_ext.support import intervals
from trl_ext.support.counts import count, were
from trl_ext.support.intervals import Estimate
from trl_ext.trainers.preference.construction import has_images

Progress = Callable[[Iterable, int], Iterable]
"""Iterates over so many items and shows the progress."""

CLASSES = {True: "desirable", False: "undesirable"}


def evaluate_run(
    directory: Path,
    choice: RowChoice,
    sampling: Sampling,
    log: Callable[[str], None],
    progress: Progress,
    reward_names: Any = None,
) -> dict[str, Any]:
    """Evaluate a run or one of its checkpoints.

    Args:
        directory: The run's directory.
        choice: Which data to evaluate on.
        sampling: How many completions are sampled, and how.
        log: Called with each message for the user.
        progress: Wraps the iteration over examples while they are scored.
        reward_names: Reward functions for sampled completions, by name; `None` for those that come with the data.

    Returns:
        See `evaluate_model`.

    Raises:
        UserError: No such run or data, or the run cannot be evaluated on it.
    """
    finished.check(directory)
    recipe = finished.recipe_at(directory, needs_data=choice.dataset is None)
    functions = reward_functions(reward_names, recipe, choice.dataset)
    rows = find_rows(recipe, training_config(recipe, directory), choice)
    for statement in rows.statements:
        log(statement)
    return evaluate_model(open_model(directory, needs_reference=True), rows, sampling, log, progress, functions)


def evaluate_model(
    opened: Opened,
    rows: Rows,
    sampling: Sampling,
    log: Callable[[str], None],
    progress: Progress,
    functions: RewardFunctions | None = None,
) -> dict[str, Any]:
    """Evaluate a model that is in memory already.

    Args:
        opened: The model and its reference.
        rows: Data to evaluate on.
        sampling: How many completions are sampled, and how.
        log: Called with each message for the user.
        progress: Wraps the iteration over examples while they are scored.
        functions: Reward functions for sampled completions.

    Returns:
        A record for JSON. `step`: the optimizer step of the weights, if the run logged any. `data`: name, number of rows, rows left out. `reference`: a description of it. For pairs
        `ranking`, by `log_ratio` (log π − log π_ref) and by the log-probability under `tuned` and `base` alone: `accuracy`
        (chosen above rejected, ties count one half) and `margin` (nats), and both `per_token` of the completion. For
        labelled completions `area_under_curve` instead of `accuracy`. `log_ratio`: nats per completion of each kind.
        `tokens`: per completion in the data. `sampled`: see `evaluate_samples`. Every number has `value`, `low` and `high`;
        `intervals` names the kinds of intervals.

    Raises:
        UserError: The model cannot be evaluated on these rows.
    """
    made = scorer(opened, rows)
    scored = list(progress(made.scored(made.train_dataset), len(made.train_dataset)))
    measured = _pairs(scored) if rows.is_paired else _labelled(scored, np.array(made.train_dataset["label"]))
    record = {
        "run": str(opened.directory),
        "step": finished.last_step(opened.directory),
        "reference": opened.base_in_words,
        "data": {
            "name": rows.name,
            "pairs" if rows.is_paired else "answers": len(scored),
            "dropped": rows.dropped,
            "too_long": len(rows.dataset) - len(scored),
            "was_trained_on": rows.was_trained_on,
            "statements": rows.statements,
        },
        **measured,
    }
    if sampling.n and has_images(made.train_dataset):
        log("No completions are sampled: prompts with images are scored only.")
    elif sampling.n:
        log(f"sampling up to {count(sampling.n, 'completions')} of the tuned model and of the base …")
        record["sampled"] = evaluate_samples(opened, made, sampling, functions or {})
        if (n := record["sampled"]["n"]) < sampling.n:
            log(
                f"Only {n:,} of {count(sampling.n, 'completions')} {were(n)} sampled: the data has no more distinct prompts."
            )
    return _plain(record) | {"intervals": intervals.INTERVALS}


def _pairs(scored: list[list[Scored]]) -> dict[str, Any]:
    """Measurements on pairs."""
    policy, reference, lens = (np.array([[f(side) for side in pair] for pair in scored]) for f in SUMS)

    def by_side(values: np.ndarray) -> dict[str, Estimate]:
        return {name: intervals.mean(values[:, i]) for i, name in enumerate(("chosen", "rejected"))}

    def ranking(values: np.ndarray) -> dict[str, Estimate]:
        margin, per_token = (v[:, 0] - v[:, 1] for v in (values, values / lens.clip(1)))
        return {
            "accuracy": intervals.share_above(margin),
            "accuracy_per_token": intervals.share_above(per_token),
            "margin": intervals.mean(margin),
            "margin_per_token": intervals.mean(per_token),
        }

    return _measurements(policy, reference, lens, ranking, by_side)


def _labelled(scored: list[list[Scored]], is_desirable: np.ndarray) -> dict[str, Any]:
    """Measurements on labelled completions."""
    policy, reference, lens = (np.array([f(completion) for (completion,) in scored]) for f in SUMS)

    def by_class(values: np.ndarray) -> dict[str, Estimate]:
        members = {name: is_desirable == label for label, name in CLASSES.items()}
        return {name: intervals.mean(values[those]) for name, those in members.items() if those.any()}

    def ranking(values: np.ndarray) -> dict[str, Estimate | None]:
        kinds = {"area_under_curve": values, "area_under_curve_per_token": values / lens.clip(1)}
        return {name: intervals.area_under_curve(v[is_desirable], v[~is_desirable]) for name, v in kinds.items()}

    return _measurements(policy, reference, lens, ranking, by_class)


def _measurements(
    policy: np.ndarray, reference: np.ndarray, lens: np.ndarray, ranking: Callable, by_kind: Callable
) -> dict[str, Any]:
    """Rankings, and means of each kind of completion, from summed log-probabilities and lengths in tokens."""
    ratio = policy - reference
    return {
        "ranking": {"log_ratio": ranking(ratio), "tuned": ranking(policy), "base": ranking(reference)},
        "log_ratio": by_kind(ratio),
        "log_probability": {"tuned": by_kind(policy), "base": by_kind(reference)},
        "tokens": by_kind(lens),
    }


SUMS = (lambda s: s.policy.sum(dtype=float), lambda s: s.reference.sum(dtype=float), lambda s: len(s.policy))
"""Log-probability of a completion under the policy and under the reference, and its length in tokens."""


def _plain(value: Any) -> Any:
    """The same with estimates as dictionaries."""
    if isinstance(value, Estimate):
        return value._asdict()
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value
