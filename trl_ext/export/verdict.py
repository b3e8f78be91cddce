"""What the drifts of a merged model mean, in words and as rows of a table."""

import math

from trl_ext.export.fidelity import Drift, Fidelity

SMALL, LARGE = 0.1, 0.5
"""Shares of what training changed: a merge that moves the model further than the second may undo what was learnt."""

NOTICEABLE = 0.1
"""Share of the whole drift from which on the rounding of the merged weights is worth avoiding."""

SIMILAR = 2.0
"""Drifts within this factor are the same for the verdict."""

HEADINGS = ("", "KL/token", "max, token", "max, answer", "same top")


def rows(fidelity: Fidelity, dtype: str) -> list[tuple[str, ...]]:
    """One row for each comparison there is, under `HEADINGS`.

    Args:
        dtype: Of the merged weights.
    """
    compared = [
        ("trained → merged", fidelity.total),
        (f"base alone, {fidelity.base} → unquantised", fidelity.quantisation),
        (f"rounding alone, to {dtype}", fidelity.rounding),
        ("for scale: base → trained", fidelity.training),
    ]
    return [(what, *_numbers(drift)) for what, drift in compared if drift is not None]


def in_words(fidelity: Fidelity, dtype: str) -> str:
    """How large the drift is beside what training changed, and where it comes from."""
    total, training = max(fidelity.total.kl, 0), fidelity.training.kl
    share = total / training if training > 0 else math.inf
    verdict = "Faithful" if share <= SMALL else "Not quite faithful" if share <= LARGE else "Not faithful"
    beside = f", {100 * share:.3g} % of what the adapter changed ({_nats(training)})" if training > 0 else ""
    parts = [f"{verdict}: the merged model is {_nats(total)} per token from the trained one{beside}."]
    if fidelity.quantisation is not None:
        parts.append(_origin(total, fidelity.quantisation.kl, fidelity.rounding.kl, fidelity.base, dtype))
    elif dtype != "float32":
        parts.append(f"All of it is the rounding of the merged weights to {dtype}.")
    if share > LARGE:
        parts.append("Judge the merged model on your task, or serve the adapter on the base as it was in training.")
    return " ".join(parts)


def _origin(total: float, quantisation: float, rounding: float, base: str, dtype: str) -> str:
    alone = f"the two bases without the adapter are {_nats(quantisation)} apart"
    rounded = f"rounding the merged weights to {dtype} makes {_nats(max(rounding, 0))}"
    if total > 0 and rounding > NOTICEABLE * total and dtype != "float32":
        return f"A part of it is the merge's own: {rounded}, which `--dtype float32` avoids; {alone}."
    if total <= SIMILAR * quantisation:
        return f"It comes from the {base} base of training, not from the merge: {alone}, and {rounded}."
    return (
        f"It is more than the bases differ ({alone}), so the adapter relies on the {base} weights it was trained with; "
        f"{rounded}."
    )


def _numbers(drift: Drift) -> tuple[str, ...]:
    return (
        f"{max(drift.kl, 0):.2g}",
        f"{drift.largest_token:.2g}",
        f"{drift.largest_sequence:.2g}",
        f"{100 * drift.same_top:.1f} %",
    )


def _nats(value: float) -> str:
    return f"{value:.2g} nats"
