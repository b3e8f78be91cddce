"""How PPO learns: the policy's and the critic's losses, their gradients apart, and one optimizer for both."""

from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.rl import masked, objectives
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.generation import sequences
from trl_ext.trainers.rollout.update import RolloutUpdate


class PPOUpdate(RolloutUpdate):
    """Mixin before `trl.RLOOTrainer`; overrides its `_compute_loss`, and of transformers' `Trainer` `create_optimizer` and
    `_clip_grad_norm`.

    Attributes read besides those of `RolloutUpdate`: `epsilon_low`, `epsilon_high`, `aux_loss_enabled`,
    `router_aux_loss_coef`.

    Attributes:
        _largest_weights: The largest importance weight of each part of an optimizer step so far, where a KL is in the
            loss.
    """

    _largest_weights: list[Tensor]

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The policy's loss: per completion Σ_t clipped loss + kl_coef·KL, over the rollout's mean length."""
        input_ids, attention_mask = sequences(inputs)
        logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(
            model,
            input_ids,
            attention_mask,
            inputs["completion_ids"].size(1),
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled,
        )
        mask, old_logps = inputs["loss_mask"], inputs["old_per_token_logps"]
        clipped = objectives.policy_loss(
            logps,
            old_logps,
            inputs["token_advantages"],
            mask,
            epsilon=self.epsilon_low,
            epsilon_high=self.epsilon_high,
        )
        sums = self._sums["train" if self.model.training else "eval"]
        tokens, completions = mask.sum(), mask.any(1).sum()
        sums.add("policy_loss", clipped.losses.sum(), tokens)
        sums.add("entropy", masked.total(entropies.detach(), mask).sum(), tokens)
        sums.add("clip_fraction/policy", clipped.is_clipped.sum(), tokens)
        per_completion = clipped.losses.sum(1)
        if self.args.kl_placement == "loss":
            divergence = objectives.kl_loss(
                logps,
                inputs["ref_per_token_logps"],
                mask,
                estimator=self.args.kl_estimator,
                level=self.args.kl_level,
                old_logps=old_logps,
            )
            sums.add("kl_loss", divergence.sum(), completions)
            self._record_weights(sums, logps.detach(), old_logps, mask)
            per_completion = per_completion + inputs["loss_kl_coef"] * divergence
        loss = per_completion.mean() / inputs["mean_length"]
        if self.aux_loss_enabled:
            sums.add("aux_loss", aux_loss, 1)
            loss = loss + self.router_aux_loss_coef * aux_loss
        if not self.model.training:
            self._close("eval")
        return loss

    def _record_weights(self, sums: MeanMetrics, logps: Tensor, old_logps: Tensor, mask: Tensor) -> None:
        """Add the importance weights of the KL in the loss: of completions at sequence level, of tokens at token level."""
        weights, weighs = objectives.kl_weights(logps, old_logps, mask, level=self.args.kl_level)
        sums.add("kl_weight/mean", masked.apply(weights, weighs).sum(), weighs.sum())
        self._largest_weights.append(masked.apply(weights, weighs).max())

    def _critic_loss(self, batch: dict[str, Any]) -> Tensor:
        """The critic's loss, weighted: per completion Σ_t clipped squared error, over the rollout's mean length."""
        input_ids, attention_mask = sequences(batch)
        mask = batch["loss_mask"]
        with self.accelerator.autocast():  # which covers the model's own forward alone
            values = roles.values(self.model, input_ids, attention_mask, mask.size(1))
        clipped = objectives.value_loss(
            values, batch["values"], batch["returns"], mask, epsilon=self.args.cliprange_value
        )
        self._sums["train"].add("value_loss", clipped.losses.sum(), mask.sum())
        self._sums["train"].add("clip_fraction/value", clipped.is_clipped.sum(), mask.sum())
        return self.args.vf_coef * clipped.losses.sum(1).mean() / batch["mean_length"]

    def _learn(self, batch: dict[str, Any]) -> Tensor:
        """The policy's forward and backward, then the critic's: never two roles' graphs at once."""
        return self._learn_as(roles.POLICY, batch) + self._learn_as(roles.CRITIC, batch)

    def _learn_as(self, role: str, batch: dict[str, Any]) -> Tensor:
        """Forward and backward of one role on a micro-batch; returns its loss, without gradient."""
        is_policy = role == roles.POLICY
        loss_of = (lambda part: self._compute_loss(self.model, part)) if is_policy else self._critic_loss
        phase = f"in the {'policy' if is_policy else 'critic'}'s update"
        with roles.acting_as(self.model, role):
            parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            return self._backward(phase, loss_of, batch, parameters)

    def _trained(self) -> list[nn.Parameter]:
        return [*super()._trained(), *roles.critic_parameters(self.model)]

    def _close(self, mode: str) -> None:
        super()._close(mode)
        if self._largest_weights:
            largest = self.accelerator.gather(torch.stack(self._largest_weights).max())
            self._metrics[mode]["kl_weight/max"].append(largest.max().item())
            self._largest_weights.clear()

    # The optimizer --------------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """transformers' optimizer for the policy, and the critic's parameters in groups of their own."""
        if self.optimizer is None:
            super().create_optimizer(model)  # only the policy's parameters require gradients now
            decayed = set(self.get_decay_parameter_names(self.model))
            with roles.acting_as(self.model, roles.CRITIC):
                named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            for is_decayed in (True, False):
                group = [p for name, p in named if (name in decayed) == is_decayed]
                decay = self.args.weight_decay if is_decayed else 0.0
                settings = {"lr": self.args.critic_learning_rate, "weight_decay": decay}
                if group:
                    self.optimizer.add_param_group({"params": group, **settings})
        return self.optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clips policy and critic apart; returns the policy's norm and logs the critic's."""
        norm = self.accelerator.clip_grad_norm_(roles.policy_parameters(self.model), self.args.max_grad_norm)
        critic = roles.critic_parameters(self.model)
        self._metrics["train"]["grad_norm/critic"].append(
            nn.utils.clip_grad_norm_(critic, self.args.max_grad_norm).item()
        )
        return norm
