"""Compare a measure at equal KL: take back what a policy gained by more KL than it may spend."""

from __future__ import annotations

import math


def at_equal_kl(value: float, kl: float, base: float, max_kl: float, *, largest: float = 1.0) -> float:
    """The measure that a policy would have at a KL of `max_kl`.

    Its gain over the base is multiplied by √(max_kl / kl), at most by `largest`: to leading order the gain of a policy grows with the
    square root of its KL, for small KL (E_π[r] − E_ref[r] = √(2·KL·Var_ref[r]) for the optimal policy) and in the fits of
    Gao et al. 2022 (arXiv:2210.10760). A measure below the base's stays as it is.

    Args:
        value: The measure of the policy.
        kl: KL of the policy to the base, nats per completion.
        base: The measure of the base.
        max_kl: The bound, nats per completion.
        largest: Factor of a policy within the bound. Default: such a policy has its measure. A larger one is for policies
            that train on, and spend more.
    """
    if not math.isfinite(kl):
        return math.nan
    gain = value - base
    if gain <= 0:
        return value
    return base + gain * min(largest, math.sqrt(max_kl / kl) if kl > 0 else largest)
