"""Share the policy, its settings and the processes among the parts of a preference trainer."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from trl_ext.batching.head import small_tiles
from trl_ext.support.errors import UserError
from trl_ext.support.free_memory import clear_pending_errors
from trl_ext.support.memory_errors import in_parentheses, is_out_of_memory
from trl_ext.support.sharded import is_sharded
from trl_ext.trainers.common import lora
from trl_ext.trainers.common.console import detail, say
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError
from trl_ext.trainers.common.processes import on_any_process, reduce_gradients


@dataclass(frozen=True)
class Runtime:
    """Everything that is needed to run rows.

    Attributes:
        model: The policy without DDP's wrapper, because the number of rows differs between processes. FSDP2 shards it in
            place, and then the number is equal (`Rows.together`).
        args: The trainer's configuration.
        accelerator: The trainer's.
        autocast: Context of the trainer's forward passes.
        to_device: Moves a collated batch to the device.
    """

    model: nn.Module
    args: Any
    accelerator: Accelerator
    autocast: Callable[[], AbstractContextManager]
    to_device: Callable[[dict[str, Any]], dict[str, Any]]

    @property
    def device(self) -> torch.device:
        """Device on which rows run."""
        return self.args.device

    @property
    def base(self) -> nn.Module:
        """The `transformers` model, without the adapter's wrapper."""
        return self.model.get_base_model() if lora.has_adapter(self.model) else self.model

    @property
    def is_sharded(self) -> bool:
        """Whether the processes share one sharded model, and have to run rows together."""
        return is_sharded(self.accelerator)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a row's part of the loss. `sum_gradients` sums the parts of all processes."""
        # FSDP averages gradients over processes, at every backward pass.
        with small_tiles(self.device):
            self.accelerator.backward(loss * self.accelerator.num_processes if self.is_sharded else loss)

    def sum_gradients(self) -> None:
        """Sum the gradients over processes, after the last row of a step. Rows run without DDP's wrapper, which would average."""
        if not self.is_sharded:
            reduce_gradients(self.accelerator, (p for p in self.model.parameters() if p.requires_grad), "sum")

    def say(self, text: str) -> None:
        """Print `text` once per run."""
        say(self.accelerator, text)

    def detail(self, text: str) -> None:
        """Add `text` to the log of the run."""
        detail(self.accelerator, text)

    @contextlib.contextmanager
    def locally(self) -> Iterator[None]:
        """Context in which rows run, without communication unless the model is sharded. At its end, processes tell each other
        if memory ran out.

        Raises:
            RowsDoNotFitError: On every process if memory ran out on any, so that no process waits for another.
            UserError: It ran out with a sharded model, where the other processes wait within a layer.
        """
        fits, quoted = False, ""
        try:
            yield
            fits = True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.is_sharded:
                raise UserError(
                    f"Out of memory in a row{in_parentheses(error)}. With FSDP a step is not repeated with shorter rows, because the "
                    "other processes wait within a layer. Lower `row_tokens`, set `gradient_checkpointing: true`, or lower `max_length`."
                ) from error
            quoted = in_parentheses(error)
            traceback.clear_frames(error.__traceback__)  # free the activations they hold
        if not fits and self.device.type == "cuda":
            clear_pending_errors(self.device)  # any of PyTorch's kernels would raise them, also in the lines below
        if on_any_process(self.accelerator, not fits):
            raise RowsDoNotFitError(is_here=not fits, quoted=quoted)
