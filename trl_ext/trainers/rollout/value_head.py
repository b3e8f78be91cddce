"""A scalar per token from hidden states: the critic's value, or a reward model's score."""

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear map to one number, in float32 whatever the base computes in.

    Zero at first, so that a critic starts as no baseline at all instead of a random one, and without dropout, which
    would make the value of one state differ from one call to the next.
    """

    def __init__(self, hidden_size: int, *, bias: bool = True, device: torch.device | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size, dtype=torch.float32, device=device))
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float32, device=device)) if bias else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, H) to (…), float32."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            values = hidden_states.float() @ self.weight
        return values if self.bias is None else values + self.bias
