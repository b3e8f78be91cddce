"""An optimizer step on a rollout: forward and backward past DDP's wrapper, gradients and metrics reduced once."""

import time
from typing import Any

from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.processes import reduce_gradients
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.micro_batches import MicroBatches


class RolloutUpdate(MicroBatches):
    """Mixin before `trl.RLOOTrainer`; overrides its `training_step`.

    A subclass provides `_learn`. Attributes read besides those of `MicroBatches`: `model`, `state`, `optimizer`, `_step`,
    `_current_train_step_time`, `_metrics`.
    """

    def _learn(self, batch: dict[str, Any]) -> Tensor:
        """Forward and backward of a micro-batch; returns its loss, without gradient."""
        raise NotImplementedError

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        started = time.perf_counter()
        self.model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()  # schedule-free optimizers
        loss = self._learn(self._prepare_inputs(inputs))
        if self.args.torch_empty_cache_steps and self.state.global_step % self.args.torch_empty_cache_steps == 0:
            clear_device_cache()
        if self.accelerator.sync_gradients:
            reduce_gradients(self.accelerator, self._trained(), "mean")
            self._close("train")
        self._count_step(time.perf_counter() - started)
        return loss / self.current_gradient_accumulation_steps

    def _trained(self) -> list[nn.Parameter]:
        return roles.policy_parameters(self.model)

    def _close(self, mode: str) -> None:
        """Close the sums of an optimizer step: one mean over everything summed, and all processes."""
        for name, value in self._sums[mode].reduce(self.accelerator).means().items():
            self._metrics[mode][name].append(value)
        self._sums[mode] = MeanMetrics()

    def _count_step(self, seconds: float) -> None:
        """TRL's counters of micro-batches and of time per optimizer step."""
        self._step += 1
        self._current_train_step_time += seconds
        if self._step % self.current_gradient_accumulation_steps == 0:
            self._metrics["train"]["step_time"].append(self._current_train_step_time)
            self._current_train_step_time = 0.0
