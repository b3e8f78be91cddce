"""Agreement of two judges on the same prompts: Cohen's κ over win, tie and loss."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trl_ext.support import intervals
from trl_ext.support.intervals import Estimate

OUTCOMES = ("loss", "tie", "win")


class Agreement(NamedTuple):
    """Agreement of two judges.

    Attributes:
        kappa: Cohen's κ with its 95 % interval: 1 for the same outcome on every prompt, 0 for as much agreement as independent
            judges with the same shares of outcomes would have. `None` if undefined; no interval if one judge is constant.
        agreed: Share of prompts with the same outcome, with Wilson's interval; `None` without prompts.
        n: Number of prompts with clear verdicts of both judges.
        left_out: Number of prompts where a verdict of at least one judge is unclear.
        note: A sentence if κ is undefined or says nothing; else empty.
    """

    kappa: Estimate | None
    agreed: Estimate | None
    n: int
    left_out: int
    note: str = ""


def agreement(scores: Sequence[float], other_scores: Sequence[float]) -> Agreement:
    """κ = (pₒ − pₑ)/(1 − pₑ) with the share of agreement pₒ and pₑ = Σₖ aₖ·bₖ of the judges' shares (Cohen 1960).

    The interval is Wilson's for pₒ, mapped by the same line. Its effective sample size is the one for which the normal interval
    has the standard error of Fleiss, Cohen and Everitt (1969, Psychological Bulletin 72:323), which counts the error of pₑ too. It
    therefore has a width even if the judges agree on every prompt, where that standard error is zero.

    Args:
        scores: [N] scores of the first judge (`prompt_scores`): above ½ is a win, ½ a tie, below ½ a loss, NaN unclear.
        other_scores: [N] scores of the second judge for the same prompts.

    Raises:
        ValueError: The arguments have different lengths.
    """
    scores, other_scores = np.asarray(scores, dtype=float), np.asarray(other_scores, dtype=float)
    if scores.shape != other_scores.shape:
        raise ValueError(f"One judge has {len(scores)} scores and the other {len(other_scores)}.")
    clear = ~(np.isnan(scores) | np.isnan(other_scores))
    n = int(clear.sum())
    if not n:
        return Agreement(None, None, 0, len(scores), "No prompt has clear verdicts of both judges.")
    outcomes, other = (np.sign(each[clear] - 0.5).astype(int) + 1 for each in (scores, other_scores))
    table = np.zeros((3, 3))
    np.add.at(table, (outcomes, other), 1 / n)
    kappa, note = _kappa(table, n)
    return Agreement(kappa, intervals.share(int((outcomes == other).sum()), n), n, len(scores) - n, note)


def _kappa(table: np.ndarray, n: int) -> tuple[Estimate | None, str]:
    a, b = table.sum(1), table.sum(0)
    constant = [np.count_nonzero(shares) == 1 for shares in (a, b)]
    if all(constant):
        calls = [OUTCOMES[shares.argmax()] for shares in (a, b)]
        which = f"a {calls[0]}" if calls[0] == calls[1] else f"a {calls[0]} and a {calls[1]}"
        return None, f"Both judges are constant ({which} on every prompt), so Cohen's κ is undefined."
    if any(constant):
        number = "first" if constant[0] else "second"
        only = OUTCOMES[(a if constant[0] else b).argmax()]
        note = f"The {number} judge calls every prompt a {only}. Cohen's κ is 0 then, whatever the other judge says."
        return Estimate(0.0, None, None), note
    agreed, expected = min(float(np.trace(table)), 1.0), float(a @ b)
    variance = _variance(table, agreed, expected) * (1 - expected) ** 2 / n  # of pₒ with the same error of κ
    ends = intervals.wilson(agreed, agreed * (1 - agreed) / variance if variance > 1e-15 and 0 < agreed < 1 else n)
    return Estimate(*((end - expected) / (1 - expected) for end in ends)), ""


def _variance(table: np.ndarray, agreed: float, expected: float) -> float:
    """The variance of κ, times the number of prompts: by Fleiss, Cohen and Everitt."""
    a, b = table.sum(1), table.sum(0)
    diagonal = np.diag(table) @ ((1 - expected) - (a + b) * (1 - agreed)) ** 2
    squares = (a[None, :] + b[:, None]) ** 2  # in row i and column j: (aⱼ + bᵢ)²
    others = (1 - agreed) ** 2 * ((table * squares).sum() - np.diag(table) @ np.diag(squares))
    return (diagonal + others - (agreed * expected - 2 * expected + agreed) ** 2) / (1 - expected) ** 4
