"""Weight desirable and undesirable examples (λ_D and λ_U of the KTO paper, arXiv:2402.01306)."""

import torch
from torch import Tensor


def class_weights(desirable: Tensor, desirable_weight: float, undesirable_weight: float, dtype: torch.dtype) -> Tensor:
    """λ of each example (B,). ValueError if a weight is still "auto"."""
    for name, weight in (("desirable_weight", desirable_weight), ("undesirable_weight", undesirable_weight)):
        if isinstance(weight, str):
            raise ValueError(
                f"{name} is {weight!r}, which only the trainer can replace by a number, from the class counts of the "
                "training set. Give a number to call the loss directly."
            )
    weights = torch.full_like(desirable, undesirable_weight, dtype=dtype)
    return weights.masked_fill(desirable, desirable_weight)


def equal_weight(desirable_weight: float | str, undesirable_weight: float | str) -> float | None:
    """The weight of all examples; None if weights differ or are not known yet."""
    is_known = not isinstance(desirable_weight, str) and desirable_weight == undesirable_weight
    return desirable_weight if is_known else None
