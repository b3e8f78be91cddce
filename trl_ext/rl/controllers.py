"""Control the KL coefficient over a run: keep it fixed, or adapt it towards a target KL."""

import torch
from torch import Tensor


class FixedController:
    """A constant coefficient.

    Attributes:
        value: The coefficient.
    """

    def __init__(self, init: float) -> None:
        self.value = init

    def update(self, kl_sum_per_sequence: float | Tensor, n: int) -> float:
        """The coefficient, unchanged."""
        return self.value

    def state_dict(self) -> dict[str, float]:
        """Empty: a resumed run uses the coefficient of its configuration."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        pass


class AdaptiveController(FixedController):
    """Raises the coefficient while the KL is above the target, lowers it while below (Ziegler et al., arXiv:1909.08593).

    Args:
        init: First coefficient.
        target: Target KL, in nats per completion.
        horizon: Completions over which an error of 20 % changes the coefficient by about 20 %.
    """

    def __init__(self, init: float, target: float, horizon: float) -> None:
        if target <= 0 or horizon <= 0:
            raise ValueError(
                f"An adaptive KL coefficient needs a target and a horizon above 0, not {target} and {horizon}."
            )
        super().__init__(init)
        self.target = target
        self.horizon = horizon

    def update(self, kl_sum_per_sequence: float | Tensor, n: int) -> float:
        """coef ← coef·(1 + clip(KL/target − 1, ±0.2)·n/horizon); returns it (§2.2 of the paper).

        Args:
            kl_sum_per_sequence: KL summed over each completion, in nats: their mean, or a tensor (n,) of them.
            n: Completions it was measured on, over all processes.
        """
        kl = torch.as_tensor(kl_sum_per_sequence, dtype=torch.float64).mean().item()
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * n / self.horizon
        return self.value

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]
