"""What PPO learns from a rollout: values of its critic, rewards per token, advantages."""

from typing import Any

import torch
from torch import Tensor

from trl_ext.reference.implicit import no_grad_eval
from trl_ext.rl import masked
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.data import Rollout, Sampled
from trl_ext.trainers.rollout.generation import Rollouts, sequences


class PPORollout(Rollouts):
    """Mixin before `trl.RLOOTrainer`. Attributes read besides those of `Rollouts`: `kl_controller`."""

    def _learnable(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> dict[str, Any]:
        """TRL's rollout and `Rollout.targets`."""
        rollout = Rollout(**vars(sampled), values=self._rollout_values(batch))
        kl_coef = self.kl_controller.value
        shaped = rollout.shaped_rewards(self.args, kl_coef)
        targets = rollout.targets(shaped, self.args, kl_coef, self._add_up)
        self._record_rollout(rollout, shaped, targets["returns"], mode)
        mask = targets["loss_mask"]
        self._show(masked.total(targets["token_advantages"], mask) / mask.sum(1).clamp(min=1))
        if mode == "train":
            total, count = self._add_up(rollout.kl_total_and_count()).tolist()
            self.kl_controller.update(total / max(count, 1), int(count))
        return batch | targets

    def _rollout_values(self, batch: dict[str, Any]) -> Tensor:
        """Values (B, C) of a rollout, in chunks of a micro-batch as TRL takes its log-probabilities."""
        size = self.args.per_device_train_batch_size
        input_ids, attention_mask = sequences(batch)
        length = batch["completion_ids"].size(1)
        with (
            self._saying("while the critic valued completions"),
            roles.acting_as(self.model, roles.CRITIC),
            no_grad_eval(self.model),
            self.accelerator.autocast(),
        ):
            chunks = zip(input_ids.split(size), attention_mask.split(size), strict=True)
            return torch.cat([roles.values(self.model, ids, mask, length) for ids, mask in chunks])

    def _record_rollout(self, rollout: Rollout, shaped: Tensor, returns: Tensor, mode: str) -> None:
        history, sums = self._metrics[mode], MeanMetrics()
        rollout.record(sums, shaped, returns)
        for name, value in sums.reduce(self.accelerator).means().items():
            history[name].append(value)
        history["explained_variance"].append(rollout.explained_variance(returns, self._add_up).item())
        history["kl_coef"].append(self.kl_controller.value)
