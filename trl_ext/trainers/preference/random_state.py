"""Save and restore the random state of this process, on the CPU and all GPUs, to draw the same dropout masks again."""

from typing import NamedTuple

import torch


class RandomState(NamedTuple):
    """States of PyTorch's generators."""

    cpu: torch.Tensor
    cuda: list[torch.Tensor]


def capture() -> RandomState:
    """Save the current states."""
    return RandomState(torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])


def restore(state: RandomState) -> None:
    """Restore saved states."""
    torch.set_rng_state(state.cpu)
    if state.cuda:
        torch.cuda.set_rng_state_all(state.cuda)
