"""The optimizer step is the batch: one step's examples, cut into rows that only memory decides.

`per_device_train_batch_size × gradient_accumulation_steps` examples per process form one batch. It is cut into
rows, each row runs forward and backward, and every example weighs 1/N of the step over all processes. So the
loss, the KTO baseline and the metrics mean the same for any `row_tokens`.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from trl_ext.batching.padded import Examples
from trl_ext.trainers.common import step_zero
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.processes import reduce_gradients
from trl_ext.trainers.preference.coupled import CoupledBackward
from trl_ext.trainers.preference.forward import Completions
from trl_ext.trainers.preference.retry import Retry


class StepIsBatch(CoupledBackward, Retry):
    """Mixin before a TRL preference trainer.

    It departs from transformers' loop in four places:

    1. the dataloaders hand over examples instead of collated tensors (`_get_dataloader`);
    2. `get_batch_samples` gathers a step's micro-batches into one and leaves empty ones in their place, so that
       step counts, schedules, epochs and resuming stay what they were;
    3. `training_step` runs that batch row by row and reduces gradients and metrics once;
    4. `floating_point_ops` and `_track_num_input_tokens` count from examples.

    Images have to be collated in dataloader workers, so vision data keeps the parent's path throughout (`_compute_loss`);
    `train` settles checkpointing for it, and writes the reference cache out at the end. On several processes accelerate
    repeats examples to fill the last step of an epoch, as everywhere; they count there.

    A subclass provides the methods under "What a subclass provides", here and in `Rows`. Attributes read: `loss`,
    `data_collator`, `_is_vision_dataset`, `_metrics`, `router_aux_loss_coef`, `maybe_activation_offload_context`.
    """

    _is_described = False
    _is_first_step = True
    _losses: list[tuple[list[dict], torch.Tensor]]  # rows of the step in hand, and the losses of their examples

    # What a subclass provides ---------------------------------------------------------------------------------

    def _score(self, model: nn.Module, batch: dict) -> tuple[dict[str, torch.Tensor], Completions]:
        """Run policy and reference on a collated row: the tensors the loss may read, and the policy's fields."""
        raise NotImplementedError

    def _record(self, sums: MeanMetrics, batch: dict, tensors: dict, fields: Completions, output: Any) -> None:
        """Add a row's metrics to `sums`."""
        raise NotImplementedError

    def _step_tensors(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Values of the whole step, over all processes, that every row's loss reads."""
        return {}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_vision_dataset and self.args.gradient_checkpointing == "auto":
            # The parent's path has no rows to measure: all layers where memory is scarce, as TRL does.
            is_scarce = self.args.device.type != "cpu"
            self.args.activation_checkpointing = self.args.gradient_checkpointing = is_scarce  # newer and older name
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.reference_cache is not None:
                self.reference_cache.flush()

    # Dataloaders ----------------------------------------------------------------------------------------------

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        collator = self.data_collator
        if not self._is_vision_dataset:
            self.data_collator = Examples
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.data_collator = collator

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple:
        if self._is_vision_dataset:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return batches, None
        examples = Examples(example for batch in batches for example in batch)
        return [Examples()] * (len(batches) - 1) + [examples], None

    # The step -------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        if self._is_vision_dataset:
            return super().training_step(model, inputs, num_items_in_batch)
        if not inputs:
            return torch.zeros((), device=self.args.device)
        # Rows run on the bare model: each process may have another number of them, so gradients are summed by
        # hand once at the end instead of by DDP in every backward.
        self.model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()  # schedule-free optimizers
        # A stream may end in the middle of a step, which then never reached the optimizer.
        self.model.zero_grad()
        if not self._is_described:
            self._is_described = True
            step_zero.announce(self)
        with self.maybe_activation_offload_context:
            sums = self._until_it_fits(self._backward, list(inputs))
        # Every example weighs 1/N of the whole step already, so gradients are summed.
        reduce_gradients(self.accelerator, (p for p in self.model.parameters() if p.requires_grad), "sum")
        loss = self._finish(sums, "train")
        # The mean over all processes on each of them: transformers averages what they return.
        return torch.tensor(loss, device=self.args.device)

    def _compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False) -> torch.Tensor:
        """Mean loss of one collated micro-batch: the parent's path, on which vision data runs."""
        if return_outputs:
            raise ValueError("The logits are never built here: call the trainer with `return_outputs=False`.")
        tensors, fields = self._score(model, inputs)
        output = self._evaluate_loss(tensors)
        losses = self._weighted(output.losses, fields)
        sums = MeanMetrics()
        sums.add("loss", losses.sum(), len(losses))
        self._record(sums, inputs, tensors, fields, output)
        self._finish(sums, "train" if self.model.training else "eval")
        return losses.mean() + self._aux_loss(fields, 1.0)

    def _finish(self, sums: MeanMetrics, mode: str) -> float:
        """Reduce a step's sums over processes, keep its metrics for the next log, return its mean loss."""
        means = sums.reduce(self.accelerator).means()
        loss, apart = means.pop("loss"), means.pop(step_zero.APART, None)
        if mode == "train" and not math.isfinite(loss):
            return loss  # for `trl_ext.trainers.common.nonfinite` to judge; it measures nothing
        if mode == "train" and self._is_first_step:
            self._is_first_step = False
            if self.state.global_step == 0:
                step_zero.check(self, loss, apart if self._reference_ran_otherwise() else None)
        self._keep(sums, means, mode)
        return loss + (self.router_aux_loss_coef * means["aux_loss"] if self.aux_loss_enabled else 0.0)

    def _keep(self, sums: MeanMetrics, means: dict[str, float], mode: str) -> None:
        """Add means to TRL's history of `mode`; tokens are a running total there."""
        history = self._metrics[mode]
        if mode == "train":
            self._total_train_tokens += int(sums.total("num_tokens"))
        means["num_tokens"] = self._total_train_tokens
        history.pop("num_tokens", None)
        for name, value in means.items():
            history[name].append(value)

    def _backward(self, examples: list[dict], sums: MeanMetrics) -> None:
        """Accumulate the gradient of the step's mean loss, this process's share of it."""
        self._losses = []
        self._prepare_rows(examples)
        count = torch.tensor(float(len(examples)), device=self.args.device)
        total = self.accelerator.reduce(count, reduction="sum").item()
        shared = self._step_tensors(examples)
        rows = self._rows(examples)
        if self.loss.coupled and (len(rows) > 1 or self.accelerator.num_processes > 1):
            self._backward_coupled(rows, total, shared, sums)
        else:
            self._locally(lambda: self._backward_rows(rows, total, shared, sums))

    def _backward_rows(self, rows: list, total: float, shared: dict, sums: MeanMetrics) -> None:
        for row in rows:
            self._checkpoint_for(row)
            batch = self._collate(row)
            with self.compute_loss_context_manager():
                tensors, fields = self._score(self.model, batch)
                tensors |= shared
                output = self._evaluate_loss(tensors)
                losses = self._weighted(output.losses, fields)
                loss = losses.sum() / total + self._aux_loss(fields, len(row) / total)
            self.accelerator.backward(loss)
            self._losses.append((row, losses.detach()))
            sums.add("loss", losses.sum(), len(row))
            self._record(sums, batch, tensors, fields, output)

    def _evaluate_loss(self, tensors: dict[str, torch.Tensor]) -> Any:
        return self.loss(**{name: tensors[name] for name in self.loss.inputs})

    def _weighted(self, losses: torch.Tensor, fields: Completions) -> torch.Tensor:
        """Per-example weights on top of the loss; none by default."""
        return losses

    def _aux_loss(self, fields: Completions, share: float) -> torch.Tensor | float:
        """A row's share of the mixture-of-experts load-balancing loss, which is not separable over rows."""
        return self.router_aux_loss_coef * share * fields.aux_loss if self.aux_loss_enabled else 0.0

    # Counters transformers keeps ------------------------------------------------------------------------------

    def floating_point_ops(self, inputs: Any) -> int:
        if self._is_vision_dataset:
            return super().floating_point_ops(inputs)
        tokens = sum(map(self._num_tokens, inputs))
        return 6 * tokens * self.model.num_parameters(exclude_embeddings=True)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self._is_vision_dataset:
            super()._track_num_input_tokens(inputs)
        elif self.args.include_num_input_tokens_seen != "no":
            tokens = torch.tensor(sum(map(self._num_tokens, inputs)), device=self.args.device)
            self.state.num_input_tokens_seen += self.accelerator.gather(tokens).sum().item()
