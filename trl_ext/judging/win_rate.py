"""Win rate of A against B from a judge's verdicts in one or both orders, and the judge's position bias."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trl_ext.judging.judge import Verdict
from trl_ext.judging.score_interval import score_interval
from trl_ext.support import intervals
from trl_ext.support.counts import are, count
from trl_ext.support.intervals import Estimate

FIRST_SCORES = {Verdict.FIRST: 1.0, Verdict.TIE: 0.5, Verdict.SECOND: 0.0, Verdict.UNCLEAR: np.nan}
"""The score of the answer that the judge reads first."""


class PositionBias(NamedTuple):
    """How often the order of the answers changes the verdict.

    Attributes:
        changed: Share of the prompts whose verdict is another one in the other order, with Wilson's interval. It is 1 for a judge
            that always prefers the first answer, and 0 for one that reads both orders alike.
        to_first: Number of these prompts where the judge favoured the answer it read first: it preferred the first in both
            orders, or in one and called a tie in the other.
        to_second: Number of these prompts where it favoured the second. There is no other case.
    """

    changed: Estimate
    to_first: int
    to_second: int


class WinRate(NamedTuple):
    """A against B.

    Attributes:
        wins: Number of prompts with a score above ½ (see `prompt_scores`).
        ties: Number of prompts with a score of ½: ties in both orders, or opposite verdicts in the two orders.
        losses: Number of prompts with a score below ½.
        unclear: Number of prompts left out because no verdict could be read in at least one order.
        unclear_verdicts: Number of verdicts that could not be read, at most two per prompt.
        rate: Mean score of the `wins + ties + losses` prompts with its 95 % interval (`score_interval`). It equals
            (wins + ties/2) / prompts unless some prompts scored ¼ or ¾. `None` if every prompt is unclear.
        position_bias: `None` if the judge was asked in one order, or if every prompt is unclear.
    """

    wins: int
    ties: int
    losses: int
    unclear: int
    unclear_verdicts: int
    rate: Estimate | None
    position_bias: PositionBias | None


def prompt_scores(verdicts: Sequence[Verdict], swapped: Sequence[Verdict] | None = None) -> np.ndarray:
    """The score of A on each prompt: the mean over the orders of 1 for a win, ½ for a tie and 0 for a loss.

    Args:
        verdicts: The verdict per prompt on the question whose first answer is A's.
        swapped: The verdict per prompt on the question whose first answer is B's, as the judge gave it: FIRST means that B is
            better. `None` for a judge that was asked in one order.

    Returns:
        [N] in {0, ¼, ½, ¾, 1}; NaN if a verdict of the prompt is unclear. A verdict in one order alone is not used: it may be due
        to the position.

    Raises:
        ValueError: The two orders have different numbers of verdicts.
    """
    first = _first_scores(verdicts)
    if swapped is None:
        return first
    if len(swapped) != len(verdicts):
        raise ValueError(f"The two orders have different numbers of verdicts: {len(verdicts)} and {len(swapped)}.")
    return (first + 1 - _first_scores(swapped)) / 2


def win_rate(verdicts: Sequence[Verdict], swapped: Sequence[Verdict] | None = None) -> WinRate:
    """Count wins, ties and losses of A, with the win rate and the position bias. The arguments are those of `prompt_scores`."""
    scores = prompt_scores(verdicts, swapped)
    clear = scores[~np.isnan(scores)]
    return WinRate(
        wins=int((clear > 0.5).sum()),
        ties=int((clear == 0.5).sum()),
        losses=int((clear < 0.5).sum()),
        unclear=len(scores) - len(clear),
        unclear_verdicts=[*verdicts, *(swapped or ())].count(Verdict.UNCLEAR),
        rate=score_interval(clear) if len(clear) else None,
        position_bias=_position_bias(verdicts, swapped) if swapped is not None and len(clear) else None,
    )


def unclear_note(found: WinRate) -> str:
    """A sentence about the prompts that were left out; empty if there are none."""
    if not found.unclear:
        return ""
    answers = count(found.unclear_verdicts, "answers")
    return f"{count(found.unclear, 'prompts')} {are(found.unclear)} not counted: no verdict could be read from {answers} of the judge."


def _position_bias(verdicts: Sequence[Verdict], swapped: Sequence[Verdict]) -> PositionBias:
    # A judge without bias gives 1 to one answer, or ½ to both, so that the scores of the first position sum to 1.
    excess = _first_scores(verdicts) + _first_scores(swapped) - 1
    excess = excess[~np.isnan(excess)]
    to_first, to_second = int((excess > 0).sum()), int((excess < 0).sum())
    return PositionBias(intervals.share(to_first + to_second, len(excess)), to_first, to_second)


def _first_scores(verdicts: Sequence[Verdict]) -> np.ndarray:
    return np.array([FIRST_SCORES[verdict] for verdict in verdicts], dtype=float)
