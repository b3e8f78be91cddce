"""Map hidden states to one scalar per token: the critic's value, or a reward model's score."""

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear map to one number, in float32 whatever the base computes in.

    Initialised to zero, so that a critic starts without a baseline instead of with a random one. Without dropout, so that
    the value of a state is the same in every call.
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
