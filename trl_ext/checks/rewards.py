"""What settings of rewards do together, whoever learns from them."""

from collections.abc import Iterator
from typing import Any

from trl_ext.checks.sampling import Values


def problems(s: Values) -> Iterator[str]:
    """What cannot work."""
    if s["mask_truncated_completions"] and s["missing_eos_penalty"]:
        yield (
            f"{s.where('mask_truncated_completions')} leaves completions without an end out of the loss, so "
            f"{s.where('missing_eos_penalty')}, which only they would pay, has no effect: keep one of them."
        )
    low_high = s["reward_clip_range"]
    if low_high and not (len(low_high) == 2 and all(map(_is_number, low_high)) and low_high[0] < low_high[1]):
        yield f"{s.where('reward_clip_range')} is {low_high}: give two numbers, the lower one first."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
