"""Checkpoint as many layers as each micro-batch of a rollout needs: `gradient_checkpointing: auto`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trl_ext.batching import budget
from trl_ext.support.memory_errors import is_out_of_memory
from trl_ext.trainers.common.checkpointed_layers import CheckpointedLayers
from trl_ext.trainers.common.console import detail, say
from trl_ext.trainers.common.out_of_memory import release
from trl_ext.trainers.preference import activation_memory

Forward = Callable[[dict[str, Tensor]], Tensor]
"""The forward pass of a phase on some rows of a batch."""


class MicroBatchMemory:
    """Choose the checkpointed layers of each micro-batch, from memory measured on the model.

    Policy and critic compute one after the other, so the activations of one are in memory. The gradients and optimizer states
    of both are. Each is measured before its first micro-batch, on one and two rows of it. The choice does not change results.

    Args:
        base: The `transformers` model with all adapters.
        args: The trainer's configuration.
        accelerator: Prints.
        autocast: Gives the context of a forward pass.
        trained: Returns the trained parameters of all roles.
        optimizer: Returns the optimizer, which does not exist before training.

    Attributes:
        by_phase: Measured memory; `None` for a phase of which not even two rows fit.
        layers: The layers in the order they run; `None` before the first measurement.
    """

    def __init__(
        self,
        base: nn.Module,
        args: Any,
        accelerator: Accelerator,
        autocast: Callable[[], AbstractContextManager],
        *,
        trained: Callable[[], list[nn.Parameter]],
        optimizer: Callable[[], Any],
    ) -> None:
        self.base = base
        self.args = args
        self.accelerator = accelerator
        self.autocast = autocast
        self.trained = trained
        self.optimizer = optimizer
        self.by_phase: dict[str, budget.Memory | None] = {}
        self.layers: CheckpointedLayers | None = None
        self._recomputes_everything = False

    def checkpoint_for(self, phase: str, batch: dict[str, Tensor], forward: Forward) -> None:
        """Checkpoint as many layers as a forward and backward pass of `batch` needs."""
        if phase not in self.by_phase and not self._recomputes_everything:
            self._measure(phase, batch, forward)
        memory = None if self._recomputes_everything else self.by_phase[phase]
        everything = len(self.layers.layers)
        self.layers.first(everything if memory is None else memory.layers_to_checkpoint(tokens(batch)))

    def checkpoint_nothing(self) -> None:
        """Checkpoint no layer, as long as no backward pass follows."""
        if self.layers is not None:
            self.layers.first(0)

    def recompute_everything(self) -> bool:
        """Checkpoint all layers from now on. Returns whether they were not before."""
        before, self._recomputes_everything = self._recomputes_everything, True
        return not before and self.layers.count != len(self.layers.layers)

    def _measure(self, phase: str, batch: dict[str, Tensor], forward: Forward) -> None:
        def trial(times: int) -> tuple[Callable[[], Tensor], int]:
            rows = {name: value[:1].repeat_interleave(times, 0) for name, value in batch.items() if value.ndim}

            def run() -> Tensor:
                with torch.random.fork_rng(), self.autocast():
                    return forward(rows)

            return run, tokens(rows)

        measured = None
        try:
            with activation_memory.nothing_checkpointed(self.base):
                measured, layers = activation_memory.footprint(self.base, trial)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if measured is None:  # outside the handler: its traceback keeps the activations alive
            release()
            self.by_phase[phase] = None
            self.layers = self.layers or self._choosable(activation_memory.layers_of(self.base))
            say(self.accelerator, f"memory {phase}: two rows do not fit without gradient checkpointing")
            return
        self.layers = self.layers or self._choosable(layers)
        memory = self.by_phase[phase] = budget.Memory(measured, self._free())
        size = tokens(batch)
        tell = detail if memory.fits(size, memory.layers_to_checkpoint(size)) else say
        what = f"a micro-batch of {size:,} tokens"
        tell(self.accelerator, f"memory {phase}: {budget.in_words(memory, size, None, what)}")

    def _choosable(self, layers: list[nn.Module]) -> CheckpointedLayers:
        return CheckpointedLayers(self.base, layers, **(self.args.gradient_checkpointing_kwargs or {}))

    def _free(self) -> float:
        trained = self.trained()
        device, optim = self.accelerator.device, self.args.optim
        free = activation_memory.free_for_activations(self.base, self.optimizer(), optim, device, trained)
        # The gradients of earlier micro-batches are kept beside those of the one that runs.
        return max(free - sum(p.numel() * p.element_size() for p in trained), 0)


def tokens(batch: dict[str, Tensor]) -> int:
    """Tokens that a batch computes, padding included: its completions (B, C), or those of pairs (P, 2, C), with their prompts."""
    completions = batch["completion_ids"]
    return completions.numel() + completions[..., 0].numel() * batch["prompt_ids"].size(1)
