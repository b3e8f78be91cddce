"""Length-controlled win rate (Dubois et al. 2024, arXiv:2404.04475): the win rate if both answers were equally long."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trl_ext.judging import logistic
from trl_ext.judging.score_interval import score_interval
from trl_ext.support.intervals import Estimate, Z

MIN_RANGE = 1e-4
"""The least range of tanh(Δ/s). With one sign of Δ and little variation, tanh is 1 or -1 on every prompt."""

EXACT = 1e-8
"""The largest residual of scores that are fitted exactly."""

MAX_LEVERAGE = 0.99
"""A prompt above it is fitted exactly, whatever its score, so that its residual says nothing about the error."""


class LengthControlled(NamedTuple):
    """The length-controlled win rate, or why there is none.

    Attributes:
        rate: Win rate of A at equal lengths with its 95 % interval; `None` if the data do not determine it.
        length_effect: φ, the effect of the length difference on the log-odds of a win, with its 95 % interval. Positive: the
            judge prefers the longer answer. `None` if there is no rate, or if it needed no regression.
        undefined: A sentence that says why there is no rate; empty if there is one.
    """

    rate: Estimate | None
    length_effect: Estimate | None = None
    undefined: str = ""


def length_controlled(
    scores: Sequence[float], lengths: Sequence[float], other_lengths: Sequence[float]
) -> LengthControlled:
    """Fit P(A wins on prompt i) = σ(θ + φ·tanh(Δᵢ/s)) and predict at Δ = 0: the rate is σ(θ).

    Δᵢ is the length of A's answer minus that of B's, and s the standard deviation of Δ over the prompts (ddof 1). Only the unit
    of φ depends on s. Scores of ¼, ½ and ¾ are targets like 0 and 1 (fractional logit, Papke and Wooldridge 1996, Journal of
    Applied Econometrics 11:619). The covariance of θ and φ is the sandwich J⁻¹·(Σᵢ rᵢ²/(1 − hᵢ)²·xᵢxᵢᵀ)·J⁻¹ with residuals rᵢ and
    leverages hᵢ (HC3, MacKinnon and White 1985), because such scores vary less than wins and losses do. The interval
    θ ± `Z` standard errors is mapped by σ, so it stays in (0, 1).

    Left out of the paper's model (Eq. 2):

    - The term for the difficulty of the instruction. Its values come from a joint fit over many models on the same prompts, and
      here there are two policies. θ is then the average over the prompts.
    - The weak penalty that draws φ to that of AlpacaEval's truncated and padded baselines. It protects a leaderboard from policies
      that shorten their answers on purpose, and needs those baselines for the user's prompts. Without it, φ has more variance,
      which the interval shows.

    Two parameters of a concave likelihood need a few Newton steps, so no statistics package is used.

    Args:
        scores: [N] scores of A in [0, 1] (`prompt_scores`). Prompts with NaN are left out.
        lengths: [N] lengths of A's answers, in any unit. The paper counts characters.
        other_lengths: [N] lengths of B's answers.

    Raises:
        ValueError: The arguments have different lengths.
    """
    scores = np.asarray(scores, dtype=float)
    difference = np.asarray(lengths, dtype=float) - np.asarray(other_lengths, dtype=float)
    if scores.shape != difference.shape:
        raise ValueError(f"The numbers of scores and of lengths differ: {len(scores)} and {len(difference)}.")
    clear = ~np.isnan(scores)
    scores, difference = scores[clear], difference[clear]
    if not len(scores):
        return LengthControlled(None, undefined="No prompt has a clear verdict.")
    if not difference.any() or (scores == 0.5).all():  # equal lengths already, or nothing that length could explain
        return LengthControlled(score_interval(scores))
    if len(scores) < 3:
        return LengthControlled(None, undefined="A length-controlled win rate needs at least 3 prompts.")
    deviation = difference.std(ddof=1)
    x = np.tanh(difference / deviation) if deviation else np.ones_like(difference)
    if sentence := _undefined(scores, x):
        return LengthControlled(None, undefined=sentence)
    return _regress(scores, x)


def _undefined(scores: np.ndarray, x: np.ndarray) -> str:
    """Why the regression has no unique finite maximum; empty if it has one.

    A score between 0 and 1 counts as a part of a win and a part of a loss. There is no finite maximum if one length difference
    separates all wins from all losses (Albert and Anderson 1984, Biometrika 71:1).
    """
    if np.ptp(x) < MIN_RANGE:
        return "All length differences are almost equal, so their effect cannot be separated from the difference in quality."
    won, lost = x[scores > 0], x[scores < 1]
    if not len(won) or not len(lost):
        kind = "won" if len(won) else "lost"
        return f"A {kind} every prompt, so the effect of length cannot be estimated."
    if won.min() >= lost.max() or won.max() <= lost.min():
        kind = "larger" if won.min() >= lost.max() else "smaller"
        return (
            f"The length difference alone separates wins from losses: A won with the {kind} differences (its length minus B's) and "
            "lost with the others. The effect of length has no finite estimate then."
        )
    return ""


def _regress(scores: np.ndarray, x: np.ndarray) -> LengthControlled:
    design = np.column_stack([np.ones_like(x), x])
    try:
        (theta, phi), information = logistic.fit(design, scores)
    except ArithmeticError:
        return LengthControlled(
            None,
            undefined="The length difference predicts almost every verdict, so its effect has no finite estimate.",
        )
    p = logistic.sigmoid(theta + phi * x)
    inverse = np.linalg.inv(information)
    leverage = p * (1 - p) * np.einsum("ij,jk,ik->i", design, inverse, design)
    if leverage.max() > MAX_LEVERAGE:
        return LengthControlled(
            None,
            undefined="One prompt alone determines the effect of length. More prompts with different lengths are needed.",
        )
    if np.abs(scores - p).max() < EXACT:
        return LengthControlled(
            None,
            undefined="The regression fits every score exactly, so its error cannot be estimated. More prompts are needed.",
        )
    influence = (design * ((scores - p) / (1 - leverage))[:, None]) @ inverse
    theta_error, phi_error = np.sqrt((influence**2).sum(0))  # the diagonal of the sandwich
    ends = (logistic.sigmoid(theta + sign * Z * theta_error) for sign in (0, -1, 1))
    return LengthControlled(
        Estimate(*map(float, ends)), Estimate(*(float(phi + sign * Z * phi_error) for sign in (0, -1, 1)))
    )
