"""What trainers share that run whole micro-batches in transformers' own loop: a float32 adapter, fused kernels, checkpointed layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.support.errors import UserError
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import (
    activation_memory,
    fused_kernels,
    input_batches,
    lora,
    out_of_memory,
    recompute_options,
)
from trl_ext.trainers.common.console import detail
from trl_ext.trainers.common.micro_batch_memory import MicroBatchMemory
from trl_ext.trainers.common.repetition import Repetition

PHASE = "in training"


class WholeMicroBatches:
    """Mixin before a TRL trainer that casts the adapter of a quantised model to bfloat16.

    Overrides `__init__` and `training_step`. Attributes of the parents read: `args`, `model`, `accelerator`, `optimizer`,
    `compute_loss`, `_prepare_inputs`, `_metrics`, `_total_train_tokens`, `_is_vision_dataset`; of
    `trl_ext.trainers.common.streams`: `_sequences_per_example`.

    Attributes:
        memory: Chooses the checkpointed layers of each micro-batch; `None` if they are the same in all.
    """

    def __init__(self, model: Any, args: Any = None, *more: Any, **given: Any) -> None:
        weights = lora.snapshot(model)
        reason = recompute_options.settle_before(args)
        with recompute_options.told_to_trl(args):
            super().__init__(model, args, *more, **given)
        keep_exact_cpu_kernels(self.model)
        lora.restore(self.model, weights, dtype=torch.float32)
        fused_kernels.install(self)
        if reason is not None:
            detail(self.accelerator, f"memory: all layers are checkpointed, because {reason}")
        if getattr(self, "_is_vision_dataset", False):  # towers of images are not measured
            recompute_options.settle(self.args, self.args.device.type != "cpu")
        self.memory = self._chooses_layers() if self.args.gradient_checkpointing == "auto" else None
        self._repetition = Repetition(self.accelerator, PHASE)
        self._longest = 0  # tokens of the longest micro-batch so far

    def _chooses_layers(self) -> MicroBatchMemory:
        has_adapter = lora.has_adapter(self.model)
        return MicroBatchMemory(
            self.model.get_base_model() if has_adapter else self.model,
            self.args,
            self.accelerator,
            self.compute_loss_context_manager,
            tokens=input_batches.tokens,
            sample=self._sample,
            trained=self._trained,
            optimizer=lambda: self.optimizer,
            keeps_gradients=has_adapter,
        )

    @property
    def longest_row(self) -> tuple[int, int] | None:
        """Tokens of the longest micro-batch so far, and the number of layers checkpointed in it; `None` before the first."""
        if not self._longest:
            return None
        if self.memory is not None:
            return self._longest, self.memory.layers_for(PHASE, self._longest)
        layers = activation_memory.layers_of(self.model)
        return self._longest, len(layers) * bool(self.args.gradient_checkpointing)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run a micro-batch forward and backward. If memory runs out and the layers are chosen here, run it again."""
        run = super().training_step
        self._longest = max(self._longest, input_batches.tokens(inputs))

        def loss_of(batch: dict[str, Any]) -> Tensor:
            return self._loss_alone(batch, num_items_in_batch)

        def attempt() -> Tensor:
            forget = self._mark()
            try:
                if self.memory is not None:
                    self.memory.checkpoint_for(PHASE, inputs, loss_of)
                return run(model, {**inputs}, num_items_in_batch)
            except Exception:
                forget()
                raise

        def give_up(quoted: str) -> None:
            raise UserError(f"Out of memory {PHASE}{quoted}: {self._remedy()}.")

        trained = self._trained()
        # Without an adapter, a second copy of the gradients would take as much memory as the weights.
        may_repeat = lora.has_adapter(self.model) or all(parameter.grad is None for parameter in trained)
        if self.memory is None or not may_repeat:
            with out_of_memory.reported(PHASE, self._remedy()):
                return attempt()
        return self._repetition.until_it_fits(attempt, trained, self.memory, give_up)

    def _remedy(self) -> str:
        given = self.args
        size = "`per_device_train_batch_size`, " if given.per_device_train_batch_size > 1 else ""
        checkpointing = "" if given.gradient_checkpointing else "set `gradient_checkpointing: true`, "
        return f"{checkpointing}lower {size}`max_length` or `lora_r`, or free memory on the device"

    def _sample(self, batch: dict[str, Any], times: int) -> dict[str, Any]:
        return input_batches.first_half(batch, self._sequences_per_example) if times == 1 else {**batch}

    def _loss_alone(self, batch: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        """The loss of a batch, without anything that is recorded with it."""
        forget = self._mark()
        self.model.train()
        loss = self.compute_loss(self.model, self._prepare_inputs(batch), num_items_in_batch=num_items_in_batch)
        forget()
        return loss

    def _mark(self) -> Callable[[], None]:
        """Returns a function that forgets the metrics and counts of training recorded from now on."""
        recorded, tokens = self._metrics["train"], self._total_train_tokens
        lengths = {name: len(values) for name, values in recorded.items()}

        def forget() -> None:
            for name in [*recorded]:
                del recorded[name][lengths.get(name, 0) :]
                if not recorded[name]:
                    del recorded[name]
            self._total_train_tokens = tokens

        return forget

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]
