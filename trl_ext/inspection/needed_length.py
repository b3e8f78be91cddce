"""Find the `max_length` at which most examples keep all their tokens."""

import numpy as np

from trl_ext.inspection.facts import Facts

SHARE = 0.95
"""Share of the examples that a proposed length keeps whole."""


def needed_length(facts: Facts) -> str | None:
    """A sentence about the length that keeps 95 % of the examples whole; `None` if no example is longer than the limit."""
    limit = facts.limits.max_length
    whole = _whole_lengths(facts)
    if limit is None or whole is None or not (whole > limit).any():
        return None
    is_whole = whole <= limit
    if is_whole.mean() < SHARE:
        least = int(np.sort(whole)[int(np.ceil(SHARE * len(whole))) - 1])
        return f"`max_length: {least}` would keep {SHARE * 100:.0f} % of the examples whole; now {_share(is_whole.mean())} are."
    return (
        f"{_share(is_whole.mean())} of the examples are whole; `max_length: {int(whole.max())}` would keep every one."
    )


def _whole_lengths(facts: Facts) -> np.ndarray | None:
    """Tokens of each example before any cut: of the prompt with its longest completion, (N,)."""
    completions = [array.astype(np.int64) for name, array in facts.lengths.items() if name != "prompt"]
    if not completions or not len(facts):
        return None
    return np.max(completions, axis=0) + facts.lengths.get("prompt", np.zeros(1)).astype(np.int64)


def _share(share: float) -> str:
    """In per cent, rounded down so that only all of them are 100 %."""
    return f"{np.floor(share * 1000) / 10:g} %"
