"""Name the measures of an evaluation, and extract their values for a run and for its base.

`trl-ext run`, `eval` and `compare` take names and values from here, so that one measure has one name and one value.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

SCORE = "score/"
"""Prefix of the keys of mean rewards of sampled completions."""

Number = dict[str, float | None]
"""`value`, with `low` and `high` of its 95 % interval (`None` for a single value)."""


class Measure(NamedTuple):
    """A measure: key in a row of results, name, format of its numbers, and the function that picks the better value."""

    key: str
    name: str
    form: str
    best: Any = None


MEASURES = (
    Measure("kl", "KL to the base, nats", "{:.2f}"),
    Measure("accuracy", "accuracy on held-out pairs", "{:.3f}", max),
    Measure("auc", "AUC on held-out completions", "{:.3f}", max),
    Measure("margin", "margin, nats", "{:.2f}"),
    Measure("chosen", "log-ratio of chosen, nats", "{:+.2f}"),
    Measure("rejected", "log-ratio of rejected, nats", "{:+.2f}"),
    Measure("length", "tokens per completion", "{:.1f}"),
    Measure("ended", "share that ended", "{:.2f}"),
)
"""All measures but the rewards, which have the names of their functions."""

EXPLANATIONS = {
    "accuracy": "share of held-out pairs whose chosen completion has the larger log-ratio log π − log π_base; ties count one "
    "half",
    "auc": "probability that a desirable completion has a larger log-ratio log π − log π_base than an undesirable one",
    "margin": "mean difference of the two log-ratios",
    "chosen": "mean of log π − log π_base over the chosen (desirable) completions of the data",
    "rejected": "the same over the rejected (undesirable) completions",
    "kl": "mean log-ratio of the run's own completions, summed over tokens",
    "length": "mean length of sampled completions",
    "ended": "share of sampled completions that ended before the token limit",
}
"""What measures mean, by their keys."""
A_REWARD = "mean over sampled completions of a reward function"


def measures(rows: Sequence[dict[str, Any]], without: Collection[str] = ()) -> list[Measure]:
    """Measures with a number in any row: the first reward, KL, the other rewards, then the rest of `MEASURES`.

    Args:
        rows: Rows of results.
        without: Keys of measures to leave out.
    """
    scores = dict.fromkeys(key for row in rows for key in row if key.startswith(SCORE))
    first, *others = [Measure(key, key.removeprefix(SCORE), "{:.3f}", max) for key in scores] or [None]
    kl, *rest = MEASURES
    ordered = [first, kl, *others, *rest] if first else [rest[0], rest[1], kl, *rest[2:]]
    return [each for each in ordered if each.key not in without and any(row.get(each.key) for row in rows)]


def meanings(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and meaning of every measure with a number in any row, in the order of `measures`."""
    known = [(measure.name, EXPLANATIONS.get(measure.key, A_REWARD)) for measure in measures(rows)]
    return [(name, f"{text[:1].upper()}{text[1:]}.") for name, text in known if text]


def of_run(evaluation: dict[str, Any] | None, **facts: Any) -> dict[str, Any]:
    """The row of a run: `facts`, and the numbers of the tuned model if it was evaluated.

    Keys: `accuracy` or `auc`, `margin`, `chosen`, `rejected` (log-ratios in nats). If completions were sampled, also `kl`
    (nats per completion), `length` (tokens), `ended` (share), `samples` (prompt, text and scores), and the mean of every
    reward under `score/` and its name.
    """
    if evaluation is None:
        return facts
    ranking, ratio = evaluation["ranking"]["log_ratio"], evaluation["log_ratio"]
    names = ("chosen", "rejected") if "chosen" in ratio else ("desirable", "undesirable")
    row = facts | {
        "accuracy": ranking.get("accuracy"),
        "auc": ranking.get("area_under_curve"),
        "margin": ranking.get("margin"),
        "chosen": ratio.get(names[0]),
        "rejected": ratio.get(names[1]),
    }
    if sampled := evaluation.get("sampled"):
        row["kl"] = sampled["kl"]["k1"]
    return row | _of_samples(evaluation, "tuned")


def of_base(evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """The row of the base, which all runs started from: its log-ratios are 0, so its accuracy is 0.5 and its KL 0."""
    if evaluation is None:
        return {"name": "base"}
    name = "accuracy" if "accuracy" in evaluation["ranking"]["log_ratio"] else "auc"
    zero = {key: _exactly(0.0) for key in ("kl", "margin", "chosen", "rejected")}
    return {"name": "base", name: _exactly(0.5)} | zero | _of_samples(evaluation, "base")


def gain(rows: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The measure that runs are ranked by, as key and name: the first reward all have, else accuracy on preferences."""
    shared = [key for key in (rows[0] if rows else ()) if key.startswith(SCORE) and all(row.get(key) for row in rows)]
    if shared:
        return shared[0], shared[0].removeprefix(SCORE)
    key = "auc" if rows and rows[0].get("auc") else "accuracy"
    return key, next(measure.name for measure in MEASURES if measure.key == key)


def _of_samples(evaluation: dict[str, Any], who: str) -> dict[str, Any]:
    sampled = evaluation.get("sampled")
    if not sampled:
        return {}
    figures = {"length": sampled["tokens"][who], "ended": sampled["ended"][who]}
    scores = {f"{SCORE}{name}": found[who] for name, found in sampled.get("scores", {}).items()}
    return scores | figures | {"samples": sampled["examples"][who]}


def _exactly(value: float) -> Number:
    return {"value": value, "low": value, "high": value}
