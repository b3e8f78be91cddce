"""How PPO learns: the policy's and the critic's losses, their gradients apart, and one optimizer for both."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from trl_ext.rl import masked, objectives
from trl_ext.trainers import roles
from trl_ext.trainers.metrics import MeanMetrics
from trl_ext.trainers.ppo_rollout import sequences


class PPOUpdate:
    """Mixin before `trl.RLOOTrainer`; overrides its `_compute_loss` and `training_step`, and of transformers' `Trainer`
    `create_optimizer` and `_clip_grad_norm`.

    Attributes read: `args`, `model`, `accelerator`, `epsilon_low`, `epsilon_high`, `aux_loss_enabled`,
    `router_aux_loss_coef`, `current_gradient_accumulation_steps`, `_step`, `_buffered_inputs`, `_metrics`, and `_sums`,
    the running sums of an optimizer step's metrics.
    """

    _sums: dict[str, MeanMetrics]

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
            per_completion = per_completion + inputs["loss_kl_coef"] * divergence
        loss = per_completion.mean() / inputs["mean_length"]
        if self.aux_loss_enabled:
            sums.add("aux_loss", aux_loss, 1)
            loss = loss + self.router_aux_loss_coef * aux_loss
        if not self.model.training:
            self._log_means("eval")
        return loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The policy's forward and backward, then the critic's: never two roles' graphs at once."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        batch = self._buffered_inputs[(self._step - 1) % self.args.steps_per_generation]
        loss = loss + self._train_critic(batch) / self.current_gradient_accumulation_steps
        if self.accelerator.sync_gradients:
            self._average_critic_gradients()
            self._log_means("train")
        return loss

    def _train_critic(self, batch: dict[str, Any]) -> Tensor:
        """Forward and backward of the critic on a micro-batch; returns its weighted loss, without gradient."""
        input_ids, attention_mask = sequences(batch)
        mask = batch["loss_mask"]
        with roles.acting_as(self.model, roles.CRITIC):
            with self.compute_loss_context_manager():
                values = roles.values(self.model, input_ids, attention_mask, mask.size(1))
            clipped = objectives.value_loss(
                values, batch["values"], batch["returns"], mask, epsilon=self.args.cliprange_value
            )
            loss = self.args.vf_coef * clipped.losses.sum(1).mean() / batch["mean_length"]
            self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        self._sums["train"].add("value_loss", clipped.losses.sum(), mask.sum())
        self._sums["train"].add("clip_fraction/value", clipped.is_clipped.sum(), mask.sum())
        return loss.detach()

    def _average_critic_gradients(self) -> None:
        """Mean over processes; the critic bypasses the wrapper that does this for the policy."""
        if self.accelerator.num_processes == 1:
            return
        parameters = roles.critic_parameters(self.model)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        vector_to_parameters(self.accelerator.reduce(parameters_to_vector(gradients), reduction="mean"), gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _log_means(self, mode: str) -> None:
        """Close the sums of an optimizer step: one mean over all its tokens and processes."""
        for name, value in self._sums[mode].reduce(self.accelerator).means().items():
            self._metrics[mode][name].append(value)
        self._sums[mode] = MeanMetrics()

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
