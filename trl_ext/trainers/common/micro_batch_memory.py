"""Checkpoint as many layers as each micro-batch needs: `gradient_checkpointing: auto` of trainers that run whole micro-batches."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trl_ext.batching import budget
from trl_ext.support.free_memory import release
from trl_ext.support.memory_errors import is_out_of_memory
from trl_ext.trainers.common import activation_memory
from trl_ext.trainers.common.checkpointed_layers import CheckpointedLayers
from trl_ext.trainers.common.console import detail, say

Batch = dict[str, Any]
Forward = Callable[[Batch], Tensor]
"""The forward pass of a phase on a part of a micro-batch."""


class MicroBatchMemory:
    """Choose the checkpointed layers of each micro-batch, from memory measured on the model.

    Roles such as policy and critic compute one after the other, so the activations of one are in memory. The gradients and
    optimizer states of all are. Each is measured before its first micro-batch. The choice does not change results.

    Args:
        base: The `transformers` model with all adapters.
        args: The trainer's configuration.
        accelerator: Prints.
        autocast: Gives the context of a forward pass.
        tokens: Counts the tokens that a micro-batch computes, padding included.
        sample: Makes a batch to measure from a micro-batch: one that is short for 1, and about twice as long for 2.
        trained: Returns the trained parameters of all roles.
        optimizer: Returns the optimizer, which does not exist before training.
        keeps_gradients: Whether the gradients of earlier micro-batches are kept beside those of the one that runs.

    Attributes:
        by_phase: Measured memory; `None` for a phase in which memory ran out while it was measured.
        layers: The layers in the order they run; `None` before the first measurement.
    """

    def __init__(
        self,
        base: nn.Module,
        args: Any,
        accelerator: Accelerator,
        autocast: Callable[[], AbstractContextManager],
        *,
        tokens: Callable[[Batch], int],
        sample: Callable[[Batch, int], Batch],
        trained: Callable[[], list[nn.Parameter]],
        optimizer: Callable[[], Any],
        keeps_gradients: bool = True,
    ) -> None:
        self.base = base
        self.args = args
        self.accelerator = accelerator
        self.autocast = autocast
        self.tokens = tokens
        self.sample = sample
        self.trained = trained
        self.optimizer = optimizer
        self.keeps_gradients = keeps_gradients
        self.by_phase: dict[str, budget.Memory | None] = {}
        self.layers: CheckpointedLayers | None = None
        self._recomputes_everything = False

    def checkpoint_for(self, phase: str, batch: Batch, forward: Forward) -> None:
        """Checkpoint as many layers as a forward and backward pass of `batch` needs."""
        if phase not in self.by_phase and not self._recomputes_everything:
            self._measure(phase, batch, forward)
        self.layers.first(self.layers_for(phase, self.tokens(batch)))

    def layers_for(self, phase: str, tokens: int) -> int:
        """Number of layers that are checkpointed in a micro-batch of `tokens` tokens; measures nothing."""
        memory = None if self._recomputes_everything else self.by_phase[phase]
        return len(self.layers.layers) if memory is None else memory.layers_to_checkpoint(tokens)

    def checkpoint_nothing(self) -> None:
        """Checkpoint no layer, as long as no backward pass follows."""
        if self.layers is not None:
            self.layers.first(0)

    def recompute_everything(self) -> bool:
        """Checkpoint all layers from now on. Returns whether they were not before."""
        before, self._recomputes_everything = self._recomputes_everything, True
        return not before and self.layers.count != len(self.layers.layers)

    def _measure(self, phase: str, batch: Batch, forward: Forward) -> None:
        def trial(times: int) -> tuple[Callable[[], Tensor], int]:
            part = self.sample(batch, times)

            def run() -> Tensor:
                with torch.random.fork_rng(), self.autocast():
                    return forward(part)

            return run, self.tokens(part)

        measured = None
        try:
            with activation_memory.nothing_checkpointed(self.base):
                measured, layers = activation_memory.footprint(self.base, trial)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if measured is None:  # outside the handler: its traceback keeps tensors alive
            release()
            self.by_phase[phase] = None
            self.layers = self.layers or self._choosable(activation_memory.layers_of(self.base))
            text = "memory ran out while it was measured, so all layers are checkpointed"
            say(self.accelerator, f"memory {phase}: {text}")
            return
        self.layers = self.layers or self._choosable(layers)
        memory = self.by_phase[phase] = budget.Memory(measured, self._free())
        size = self.tokens(batch)
        tell = detail if memory.fits(size, memory.layers_to_checkpoint(size)) else say
        what = f"a micro-batch of {size:,} tokens"
        tell(self.accelerator, f"memory {phase}: {budget.in_words(memory, size, None, what)}")

    def _choosable(self, layers: list[nn.Module]) -> CheckpointedLayers:
        return CheckpointedLayers(self.base, layers, **(self.args.gradient_checkpointing_kwargs or {}))

    def _free(self) -> float:
        trained = self.trained()
        device, optim = self.accelerator.device, self.args.optim
        free = activation_memory.free_for_activations(self.base, self.optimizer(), optim, device, trained)
        kept = sum(p.numel() * p.element_size() for p in trained) if self.keeps_gradients else 0
        return max(free - kept, 0)
