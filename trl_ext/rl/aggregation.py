"""Aggregate losses per token over the tokens of a completion and over completions.

Every way is a weight per completion, so a term per completion, such as a KL, is aggregated with the same weights. A sum over
completions is divided by their number alone: with `mean_length` computed once per optimizer step or rollout, the mean over the
micro-batches of a step does not depend on how the step is cut.
"""

import torch
from torch import Tensor

AGGREGATIONS = {
    "token": "Σ over tokens / tokens of the step (DAPO, arXiv:2503.14476)",
    "sequence": "mean over the tokens of each completion, then over completions (GRPO, arXiv:2402.03300)",
    "constant": "Σ over tokens / (completions · max_completion_length) (Dr. GRPO, arXiv:2503.20783)",
    "sum": "Σ over the tokens of each completion, then the mean over completions (RLOO, arXiv:2402.14740)",
}


def weights(
    mask: Tensor, how: str, *, mean_length: Tensor | float | None = None, max_length: int | None = None
) -> Tensor:
    """The weight (B,) of each completion's sum over tokens; `aggregate` is the mean of weights times sums.

    Args:
        mask: (B, C), 1 on completion tokens. A completion without tokens counts as one of the B.
        how: A key of `AGGREGATIONS`.
        mean_length: For `token`: tokens per completion, over the optimizer step or the rollout. `None` takes it from `mask`.
        max_length: For `constant`: the largest number of tokens a completion may have.

    Raises:
        ValueError: `how` is unknown, or `constant` has no `max_length`.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"There is no loss aggregation {how!r}: choose one of {', '.join(AGGREGATIONS)}.")
    lengths = mask.bool().sum(-1).to(torch.get_default_dtype())
    if how == "sequence":
        return 1 / lengths.clamp(min=1)
    if how == "sum":
        return torch.ones_like(lengths)
    if how == "constant":
        if max_length is None:
            raise ValueError(
                "The loss aggregation 'constant' divides by a constant length, so `max_length` is needed."
            )
        return torch.full_like(lengths, 1 / max_length)
    if mean_length is None:
        mean_length = lengths.mean()
    return torch.ones_like(lengths) / torch.as_tensor(mean_length, device=mask.device).clamp(min=1)


def aggregate(
    losses: Tensor,
    mask: Tensor,
    how: str,
    *,
    mean_length: Tensor | float | None = None,
    max_length: int | None = None,
) -> Tensor:
    """The loss (0-d) of B completions: the mean over completions of weight times sum over tokens.

    Args:
        losses: (B, C) per token, read where the mask is 1; or (B,), already summed over tokens.
        mask, how, mean_length, max_length: As for `weights`.

    Raises:
        ValueError: As for `weights`.
    """
    per_completion = torch.where(mask.bool(), losses, 0).sum(-1) if losses.dim() == 2 else losses
    factors = weights(mask, how, mean_length=mean_length, max_length=max_length)
    return (factors.to(per_completion.dtype) * per_completion).mean()
