"""Extract one row of results per run, and one for the base, from the records of `trl_ext.evaluation.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SCORE = "score/"
"""Prefix of the keys of mean rewards of sampled completions."""

Number = dict[str, float | None]
"""`value`, with `low` and `high` of its 95 % interval (`None` for a single value)."""


def of_run(evaluation: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """The row of a run: `facts`, and the numbers of the tuned model.

    Keys: `accuracy`, `margin`, `chosen`, `rejected` (log-ratios in nats). If completions were sampled, also `kl` (nats per
    completion), `length` (tokens), `ended` (share), `samples` (prompt and text), and the mean of every reward under
    `score/` and its name.
    """
    ranking, ratio = evaluation["ranking"]["log_ratio"], evaluation["log_ratio"]
    names = ("chosen", "rejected") if "chosen" in ratio else ("desirable", "undesirable")
    row = facts | {
        "accuracy": ranking.get("accuracy", ranking.get("area_under_curve")),
        "margin": ranking.get("margin"),
        "chosen": ratio.get(names[0]),
        "rejected": ratio.get(names[1]),
    }
    if sampled := evaluation.get("sampled"):
        row["kl"] = sampled["kl"]["k1"]
    return row | _of_samples(evaluation, "tuned")


def of_base(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The row of the base, which all runs started from: its log-ratios are 0, so its accuracy is 0.5 and its KL 0."""
    return {"name": "base", "accuracy": _exactly(0.5), "kl": _exactly(0.0)} | _of_samples(evaluation, "base")


def gain(rows: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The measure that runs are ranked by, as key and description: the first reward all have, else accuracy on pairs."""
    shared = [key for key in (rows[0] if rows else ()) if key.startswith(SCORE) and all(row.get(key) for row in rows)]
    if shared:
        return shared[0], f"{shared[0].removeprefix(SCORE)} of sampled completions"
    return "accuracy", "accuracy on held-out preferences, by log-ratio"


def _of_samples(evaluation: dict[str, Any], who: str) -> dict[str, Any]:
    sampled = evaluation.get("sampled")
    if not sampled:
        return {}
    figures = {"length": sampled["tokens"][who], "ended": sampled["ended"][who]}
    scores = {f"{SCORE}{name}": found[who] for name, found in sampled.get("scores", {}).items()}
    return scores | figures | {"samples": sampled["examples"][who]}


def _exactly(value: float) -> Number:
    return {"value": value, "low": value, "high": value}
