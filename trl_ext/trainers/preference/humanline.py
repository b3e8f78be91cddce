"""Clip the log-ratio of each token: the humanline variants of DPO and KTO (arXiv:2509.24207).

A token's log π/π_ref is clipped to [log ε_P, log ε_R] before the sum over the completion. A clipped token has no gradient. The
reference is replaced by the policy just before every k-th optimizer step (`trl_ext.trainers.preference.reference_sync`).
"""

from typing import Any, NamedTuple

import torch

from trl_ext.trainers.common.forward import Completions, at_the_start


class Clip(NamedTuple):
    """Bounds of a token's log-ratio, in nats.

    Attributes:
        low: log ε_P, below 0.
        high: log ε_R, above 0.
    """

    low: float
    high: float

    def log_ratios(self, policy: Completions, reference: Completions) -> tuple[torch.Tensor, torch.Tensor]:
        """Clipped log-ratios summed over each completion, and the number of its clipped tokens, (S,) each.

        Args:
            policy, reference: Fields of the same S completions, whose tables may differ in width and padding.
        """
        width = int(max(policy.lens.max(), reference.lens.max()))
        now, before = (at_the_start(f.per_token_logps, f.mask, width) for f in (policy, reference))
        ratios = now - before
        clipped = ratios.clamp(self.low, self.high)
        return clipped.sum(dim=1), (clipped != ratios).sum(dim=1)


def of(args: Any) -> Clip | None:
    """The bounds that a configuration sets; `None` without `humanline`."""
    return Clip(args.humanline_log_epsilon_p, args.humanline_log_epsilon_r) if args.humanline else None
