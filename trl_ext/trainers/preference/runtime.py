"""Hold what running rows takes: the bare policy, its settings, and the processes that train it."""

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
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError, is_out_of_memory
from trl_ext.trainers.common.processes import on_any_process


@dataclass(frozen=True)
class Runtime:
    """What the parts of a preference trainer share.

    Attributes:
        model: The policy, without DDP's wrapper: each process may run another number of rows.
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
        """Where rows run."""
        return self.args.device

    @property
    def base(self) -> nn.Module:
        """The `transformers` model, below the adapter if there is one."""
        return self.model.get_base_model() if lora.has_adapter(self.model) else self.model

    def say(self, text: str) -> None:
        """Print `text` once per run."""
        say(self.accelerator, text)

    @contextlib.contextmanager
    def locally(self) -> Iterator[None]:
        """Inside, rows run without talking to other processes; at the end all learn whether memory ran out on any.

        Raises:
            RowsDoNotFitError: On every process, so that none waits for one that gave up.
        """
        fits = False
        try:
            yield
            fits = True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they keep activations alive
        if on_any_process(self.accelerator, not fits):
            raise RowsDoNotFitError(is_here=not fits)
