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

from trl_ext.trainers.common import lora
from trl_ext.trainers.common.console import detail, say
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError, is_out_of_memory
from trl_ext.trainers.common.processes import on_any_process


@dataclass(frozen=True)
class Runtime:
    """Everything that is needed to run rows.

    Attributes:
        model: The policy without DDP's wrapper, because the number of rows differs between processes.
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

    def say(self, text: str) -> None:
        """Print `text` once per run."""
        say(self.accelerator, text)

    def detail(self, text: str) -> None:
        """Add `text` to the log of the run."""
        detail(self.accelerator, text)

    @contextlib.contextmanager
    def locally(self) -> Iterator[None]:
        """Context in which rows run without communication. At its end, processes tell each other if memory ran out.

        Raises:
            RowsDoNotFitError: On every process if memory ran out on any, so that no process waits for another.
        """
        fits = False
        try:
            yield
            fits = True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # free the activations they hold
        if on_any_process(self.accelerator, not fits):
            raise RowsDoNotFitError(is_here=not fits)
