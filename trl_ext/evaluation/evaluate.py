"""What a finished run prefers and how far it went, beside what it began with, on data it did not learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import find_executable_batch_size

from trl_ext.build.trainer import training_config
from trl_ext.evaluation import intervals as estimates
from trl_ext.evaluation import rows as evaluation_rows
from trl_ext.evaluation.intervals import Estimate
from trl_ext.evaluation.scores import Scored, Scorer, scorer
from trl_ext.rl import kl
from trl_ext.runs import finished
from trl_ext.runs.load import open_model
from trl_ext.runs.loaded import Opened
from trl_ext.support.sampling import Completion, sample

BATCH = 64
"""Completions sampled at once, halved and less where memory runs out."""

EXAMPLES = 8
"""Completions that a record shows."""

Watch = Callable[[Iterable, int], Iterable]
"""Goes through so many items, showing how far it is."""


@dataclass(frozen=True)
class Sampling:
    """What is sampled from the policy and from its reference, at temperature 1.

    Attributes:
        n: Completions at most, each of a prompt of its own; 0 for none.
        max_new_tokens: Of each at most.
        seed: Of the sampling.
    """

    n: int = 256
    max_new_tokens: int = 128
    seed: int = 0


def evaluate(
    directory: Path, asked: evaluation_rows.Asked, sampling: Sampling, say: Callable[[str], None], watch: Watch
) -> dict[str, Any]:
    """Evaluate a run or one of its checkpoints.

    Args:
        directory: Of the run.
        asked: Which data.
        sampling: How much is sampled.
        say: Is told what goes on.
        watch: Goes through the examples as they are scored.

    Returns:
        See `judge`.

    Raises:
        UserError: No such run or data, or the run cannot be evaluated on it.
    """
    finished.check(directory)
    recipe = finished.recipe_at(directory, needs_data=asked.dataset is None)
    args = training_config(recipe, directory)
    rows = evaluation_rows.find(recipe, args, asked)
    for statement in rows.statements:
        say(statement)
    return judge(open_model(directory, needs_reference=True), rows, sampling, say, watch)


def judge(
    opened: Opened,
    rows: evaluation_rows.Rows,
    sampling: Sampling,
    say: Callable[[str], None],
    watch: Watch,
    scores: Mapping[str, Callable[..., list[float]]] | None = None,
) -> dict[str, Any]:
    """Evaluate a model that is in memory already.

    Args:
        opened: The model, and what it began with.
        rows: Data to evaluate on.
        sampling: How much is sampled.
        say: Is told what goes on.
        watch: Goes through the examples as they are scored.
        scores: Reward functions as TRL calls them, by name: `function(prompts=…, completions=…)` gives a number for each.

    Returns:
        A record for JSON. `data`: name, rows, what was dropped. `reference`: in words. For pairs `ranking`, by
        `log_ratio` log π − log π_ref and by the log-probability of `tuned` and `base` alone: `accuracy` (chosen above
        rejected, ties one half) and `margin` (nats), and both `per_token` of the completion. For single answers
        `area_under_curve` in the place of `accuracy`. `log_ratio`: nats per completion of each kind. `sampled`: KL in
        nats per completion by `k1` and `k3` (sums over tokens, from the policy's own completions), and of the tuned model
        and of the base tokens, the share that ended by itself, the mean of every score, and the first `EXAMPLES`
        completions. `tokens`: of completions in the data. Every number has `value`, `low` and `high`; `intervals` says of
        which kind.

    Raises:
        UserError: The model cannot be evaluated on these rows.
    """
    made = scorer(opened, rows)
    scored = list(watch(made.scored(made.train_dataset), len(made.train_dataset)))
    is_desirable = None if rows.is_paired else np.array(made.train_dataset["label"])
    record = {
        "run": str(opened.directory),
        "reference": opened.base_in_words,
        "data": {
            "name": rows.name,
            "pairs" if rows.is_paired else "answers": len(scored),
            "dropped": rows.dropped,
            "too_long": len(rows.dataset) - len(scored),
            "was_trained_on": rows.was_trained_on,
            "statements": rows.statements,
        },
        **(_of_pairs(scored) if rows.is_paired else _of_answers(scored, is_desirable)),
    }
    if sampling.n:
        say(f"sampling up to {sampling.n} completions of tuned and base …")
        record["sampled"] = _sampled(opened, made, sampling, scores or {})
        if (n := record["sampled"]["n"]) < sampling.n:
            say(f"{n} of the {sampling.n} samples asked for: the rows have no more distinct prompts.")
    return _plain(record) | {"intervals": estimates.INTERVALS}


def _of_pairs(scored: list[list[Scored]]) -> dict[str, Any]:
    policy, reference, lens = (np.array([[f(side) for side in pair] for pair in scored]) for f in SUMS)

    def ranking(values: np.ndarray) -> dict[str, Estimate]:
        margin, per_token = (v[:, 0] - v[:, 1] for v in (values, values / lens.clip(1)))
        return {
            "accuracy": estimates.share_above(margin),
            "accuracy_per_token": estimates.share_above(per_token),
            "margin": estimates.mean(margin),
            "margin_per_token": estimates.mean(per_token),
        }

    ratio = policy - reference
    return {
        "ranking": {"log_ratio": ranking(ratio), "tuned": ranking(policy), "base": ranking(reference)},
        "log_ratio": _by_side(ratio),
        "log_probability": {"tuned": _by_side(policy), "base": _by_side(reference)},
        "tokens": _by_side(lens),
    }


def _by_side(values: np.ndarray) -> dict[str, Estimate]:
    return {name: estimates.mean(values[:, i]) for i, name in enumerate(("chosen", "rejected"))}


def _of_answers(scored: list[list[Scored]], is_desirable: np.ndarray) -> dict[str, Any]:
    policy, reference, lens = (np.array([f(answer) for (answer,) in scored]) for f in SUMS)
    classes = {"desirable": is_desirable, "undesirable": ~is_desirable}

    def by_class(values: np.ndarray) -> dict[str, Estimate]:
        return {name: estimates.mean(values[members]) for name, members in classes.items() if members.any()}

    def ranking(values: np.ndarray) -> dict[str, Estimate | None]:
        per_token = values / lens.clip(1)
        return {
            "area_under_curve": estimates.area_under_curve(values[is_desirable], values[~is_desirable]),
            "area_under_curve_per_token": estimates.area_under_curve(
                per_token[is_desirable], per_token[~is_desirable]
            ),
        }

    ratio = policy - reference
    return {
        "ranking": {"log_ratio": ranking(ratio), "tuned": ranking(policy), "base": ranking(reference)},
        "log_ratio": by_class(ratio),
        "log_probability": {"tuned": by_class(policy), "base": by_class(reference)},
        "tokens": by_class(lens),
    }


SUMS = (lambda s: s.policy.sum(dtype=float), lambda s: s.reference.sum(dtype=float), lambda s: len(s.policy))
"""Of a completion: its log-probability under policy and reference, and its tokens."""


def _sampled(
    opened: Opened, made: Scorer, sampling: Sampling, scores: Mapping[str, Callable[..., list[float]]]
) -> dict[str, Any]:
    """KL(π‖ref) from completions of the policy, how long those of both are, and what scores they get."""
    data = made.train_dataset
    texts = {tuple(ids): prompt for ids, prompt in zip(data["prompt_ids"], data["prompt"], strict=True) if ids}
    prompts, asked = [list(ids) for ids in texts][: sampling.n], list(texts.values())[: sampling.n]
    tuned = _complete(opened.model, opened.tokenizer, prompts, sampling)
    with opened.reference() as model:
        base = _complete(model, opened.tokenizer, prompts, sampling)
    scored = made.scored_whole(prompts, [(one.ids, other.ids) for one, other in zip(tuned, base, strict=True)])
    of_tuned, of_base = zip(*scored, strict=True)
    ratios = {"tuned": list(map(_log_ratio, of_tuned)), "base": list(map(_log_ratio, of_base))}
    k3 = [kl.k3(*map(torch.from_numpy, each)).double().sum().item() for each in of_tuned]
    both = {"tuned": tuned, "base": base}
    return {
        "n": len(prompts),
        "max_new_tokens": sampling.max_new_tokens,
        "seed": sampling.seed,
        "kl": {"k1": estimates.mean(ratios["tuned"]), "k3": estimates.mean(k3)},
        "log_ratio": {name: estimates.mean(values) for name, values in ratios.items()},
        "tokens": {name: _lens(found) for name, found in both.items()},
        "ended": {name: _ended(found) for name, found in both.items()},
        "scores": {
            score: {name: _score(function, asked, found) for name, found in both.items()}
            for score, function in scores.items()
        },
        "examples": {name: _examples(asked, found) for name, found in both.items()},
    }


def _score(function: Callable[..., list[float]], prompts: list, completions: list[Completion]) -> Estimate:
    """The mean score, completions in the form of their prompts: texts, or conversations of one answer."""
    given = [
        completion.text if isinstance(prompt, str) else [{"role": "assistant", "content": completion.text}]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return estimates.score(function(prompts=prompts, completions=given))


def _examples(prompts: list, completions: list[Completion]) -> list[dict[str, str]]:
    return [
        {"prompt": prompt if isinstance(prompt, str) else prompt[-1]["content"], "text": completion.text}
        for prompt, completion in list(zip(prompts, completions, strict=True))[:EXAMPLES]
    ]


def _log_ratio(scored: Scored) -> float:
    """log π − log π_ref, summed over the completion."""
    return float(scored.policy.sum(dtype=float) - scored.reference.sum(dtype=float))


def _complete(model: Any, tokenizer: Any, prompts: list[list[int]], sampling: Sampling) -> list[Completion]:
    @find_executable_batch_size(starting_batch_size=BATCH)
    def complete(batch_size: int) -> list[Completion]:
        limits = {"seed": sampling.seed, "max_new_tokens": sampling.max_new_tokens}
        return sample(model, tokenizer, prompts, batch_size=batch_size, **limits)

    return complete()


def _lens(completions: list[Completion]) -> Estimate:
    return estimates.mean([len(completion.ids) for completion in completions])


def _ended(completions: list[Completion]) -> Estimate:
    return estimates.share(sum(completion.is_ended for completion in completions), len(completions))


def _plain(value: Any) -> Any:
    """Estimates as mappings."""
    if isinstance(value, Estimate):
        return value._asdict()
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value
