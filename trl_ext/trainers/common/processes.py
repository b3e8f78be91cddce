"""Agree over several processes: on a flag, on a number, on a value, on the examples that count, and on gradients."""

from collections.abc import Iterable
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

T = TypeVar("T")


def on_any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is true on any process. Every process has to call it."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor(float(flag), device=accelerator.device)
    return accelerator.reduce(flags, reduction="sum").item() > 0


def largest_on_any_process(accelerator: Accelerator, number: int) -> int:
    """The largest `number` of all processes. Every process has to call it."""
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def of_main_process(accelerator: Accelerator, value: T) -> T:
    """The value that the main process has. Every process has to call it."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


def without_copies(accelerator: Accelerator, count: int) -> int:
    """How many of this process's `count` examples of an evaluation batch count.

    The others are copies, with which accelerate fills the last batch to give every process the same number.
    """
    state = accelerator.gradient_state
    if accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return count
    return min(max(state.remainder - accelerator.process_index * count, 0), count)


def reduce_gradients(
    accelerator: Accelerator, parameters: Iterable[nn.Parameter], reduction: Literal["sum", "mean"]
) -> None:
    """Sum or average gradients over processes, where backward passes ran past DDP's wrapper, which would do it.

    A parameter without a gradient on this process counts as gradient 0.
    """
    if accelerator.num_processes == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    vector_to_parameters(accelerator.reduce(parameters_to_vector(gradients), reduction=reduction), gradients)
