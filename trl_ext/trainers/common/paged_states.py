"""Keep the states of bitsandbytes' paged optimizers in paged memory when a checkpoint is loaded."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AVERAGES = ("state1", "state2")
"""States that a paged optimizer pages between GPU and host, if the parameter is large."""


@contextmanager
def kept(optimizer: Any) -> Iterator[None]:
    """Inside, a state may be loaded into an optimizer. A paged one has it in paged memory afterwards.

    bitsandbytes would move the loaded state to the GPU as ordinary tensors, which cannot leave it when memory is scarce. So it
    is loaded on the CPU first. Tensors that are marked as paged but are not would end the process at the next step.

    Args:
        optimizer: Any optimizer, or accelerate's wrapper of it.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if not getattr(optimizer, "is_paged", False):
        yield
        return
    optimizer.load_state_dict = functools.partial(optimizer.load_state_dict, move_to_device=False)
    try:
        yield
    finally:
        del optimizer.load_state_dict
    _page(optimizer)


def _page(optimizer: Any) -> None:
    """Put loaded states where the optimizer itself would have created them."""
    for parameter, state in optimizer.state.items():
        for name in AVERAGES:
            if name in state:
                state[name] = _buffer(optimizer, parameter, state[name]).copy_(state[name])
    optimizer.to_gpu()  # everything that is not paged


def _buffer(optimizer: Any, parameter: Any, loaded: Any) -> Any:
    if parameter.device.type == "cpu":
        return loaded.new_empty(loaded.shape)  # without the mark that a checkpoint from a GPU carries
    if loaded.shape == parameter.shape:
        return optimizer.get_state_buffer(parameter, dtype=loaded.dtype)
    return optimizer._get_state_double_buffer(parameter, dtype=loaded.dtype)  # AdEMAMix: two averages in one tensor
