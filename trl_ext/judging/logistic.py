"""Logistic regression by maximum likelihood, with shares as targets."""

from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-10
"""The largest last step, relative to the largest coefficient (at least 1). Newton's error is then about its square."""

MAX_STEPS = 100
"""Newton steps. A maximum that exists takes about ten."""


class Fit(NamedTuple):
    """A maximum of the likelihood.

    Attributes:
        coefficients: [K] in log-odds.
        information: [K, K] Fisher information Σᵢ nᵢ·pᵢ(1 − pᵢ)·xᵢxᵢᵀ at the maximum. Its inverse is the covariance of the
            coefficients if the targets are shares of independent trials.
    """

    coefficients: np.ndarray
    information: np.ndarray


def fit(x: np.ndarray, y: np.ndarray, trials: np.ndarray | None = None) -> Fit:
    """Maximise ℓ(w) = Σᵢ nᵢ·[yᵢ·log σ(w·xᵢ) + (1 − yᵢ)·log σ(−w·xᵢ)].

    ℓ is concave. Newton steps are halved until ℓ does not decrease, so they reach the maximum from zero. The caller makes sure
    that a unique finite maximum exists: full column rank, and no separation.

    Args:
        x: [N, K].
        y: [N] targets in [0, 1]: shares of successes.
        trials: [N] number of trials nᵢ > 0 of each share; 1 by default.

    Raises:
        ArithmeticError: No convergence: there is no finite maximum, or none within reach of float64.
    """
    trials = np.ones(len(y)) if trials is None else trials
    w = np.zeros(x.shape[1])
    value = _log_likelihood(w, x, y, trials)
    for _ in range(MAX_STEPS):
        p = sigmoid(x @ w)
        information = (x.T * (trials * p * (1 - p))) @ x
        try:
            step = np.linalg.solve(information, x.T @ (trials * (y - p)))
        except np.linalg.LinAlgError:
            break
        if np.abs(step).max(initial=0.0) <= TOLERANCE * max(1.0, np.abs(w).max(initial=0.0)):
            return Fit(w + step, information)
        while (new := _log_likelihood(w + step, x, y, trials)) < value - 1e-14 * abs(value):  # rounding aside
            step = step / 2
        w, value = w + step, new
    raise ArithmeticError("The logistic regression has no finite maximum within reach of float64.")


def _log_likelihood(w: np.ndarray, x: np.ndarray, y: np.ndarray, trials: np.ndarray) -> float:
    logits = x @ w
    return float(-trials @ (y * np.logaddexp(0, -logits) + (1 - y) * np.logaddexp(0, logits)))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
