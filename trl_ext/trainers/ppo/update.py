"""Learn by PPO from a rollout: values, rewards per token and advantages; then the losses of policy and critic.

The first two methods of `PPOUpdate` give the order: `targets` for a rollout, `learn` for a micro-batch of it.
`trl_ext.trainers.rollout.update` lists the order of a whole optimizer step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.reference.implicit import no_grad_eval
from trl_ext.rl import kl, masked, objectives
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.ppo.targets import Rollout
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.generation import memory_reported, sequences
from trl_ext.trainers.rollout.sampled import Sampled
from trl_ext.trainers.rollout.update import RolloutUpdate


class PPOUpdate(RolloutUpdate):
    """Trains policy and critic on one base, with separate gradients.

    Args:
        kl_controller: Holds the KL coefficient; updated once per rollout.
        shared: Arguments of `RolloutUpdate`.
    """

    def __init__(self, *, kl_controller: kl.FixedController, **shared: Any) -> None:
        super().__init__(**shared)
        self.kl_controller = kl_controller
        # Largest importance weight of each part of the optimizer step so far; only for a KL in the loss.
        self._largest_weights: list[Tensor] = []

    def targets(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> tuple[dict[str, Any], Tensor]:
        rollout = Rollout(**vars(sampled), values=self._values(batch))
        kl_coef = self.kl_controller.value
        shaped = rollout.shaped_rewards(self.args, kl_coef)
        targets = rollout.targets(shaped, self.args, kl_coef, self.add_up)
        self._record_rollout(rollout, shaped, targets["returns"], mode)
        if mode == "train":
            self._steer_kl(rollout)
        mask = targets["loss_mask"]
        return batch | targets, masked.total(targets["token_advantages"], mask) / mask.sum(1).clamp(min=1)

    def learn(self, batch: dict[str, Tensor], accumulation: int) -> Tensor:
        # One role after the other, so that only one role's graph is in memory.
        policy_loss = self.learn_as(roles.POLICY, batch, accumulation)
        return policy_loss + self.learn_as(roles.CRITIC, batch, accumulation)

    def learn_as(self, role: str, batch: dict[str, Tensor], accumulation: int) -> Tensor:
        """Forward and backward of one role on a micro-batch; returns its loss, without gradient."""
        is_policy = role == roles.POLICY
        loss_of = self.policy_loss if is_policy else self.critic_loss
        forward = self.policy_forward if is_policy else self.critic_forward
        phase = f"in the {'policy' if is_policy else 'critic'}'s update"
        with roles.acting_as(self.model, role):
            parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            sums = self.metrics.sums["train"]
            return self.micro_batches.backward(phase, loss_of, batch, parameters, sums, accumulation, forward)

    def parameters(self) -> list[nn.Parameter]:
        return [*super().parameters(), *roles.critic_parameters(self.model)]

    # A rollout --------------------------------------------------------------------------------------------------

    def _values(self, batch: dict[str, Any]) -> Tensor:
        """Values (B, C) of a rollout, in chunks of a micro-batch, as TRL computes log-probabilities."""
        size = self.args.per_device_train_batch_size
        input_ids, attention_mask = sequences(batch)
        length = batch["completion_ids"].size(1)
        with (
            memory_reported("while the critic computed values", is_training=self.model.training),
            roles.acting_as(self.model, roles.CRITIC),
            no_grad_eval(self.model),
            self.accelerator.autocast(),
        ):
            chunks = zip(input_ids.split(size), attention_mask.split(size), strict=True)
            return torch.cat([roles.values(self.model, ids, mask, length) for ids, mask in chunks])

    def _record_rollout(self, rollout: Rollout, shaped: Tensor, returns: Tensor, mode: str) -> None:
        sums = MeanMetrics()
        rollout.record(sums, shaped, returns)
        means = sums.reduce(self.accelerator).means()
        means["explained_variance"] = rollout.explained_variance(returns, self.add_up).item()
        self.metrics.record(mode, means | {"kl_coef": self.kl_controller.value})

    def _steer_kl(self, rollout: Rollout) -> None:
        total, count = self.add_up(rollout.kl_total_and_count()).tolist()
        self.kl_controller.update(total / max(count, 1), int(count))

    # The losses -------------------------------------------------------------------------------------------------

    def policy_loss(self, batch: dict[str, Tensor], sums: MeanMetrics) -> Tensor:
        """Per completion Σ_t clipped loss + kl_coef·KL, over the rollout's mean length."""
        args, mask, old_logps = self.args, batch["loss_mask"], batch["old_per_token_logps"]
        scored = self.score(batch)
        clipped = objectives.policy_loss(
            scored.logps,
            old_logps,
            batch["token_advantages"],
            mask,
            epsilon=args.epsilon,
            epsilon_high=args.epsilon_high,
        )
        sums.add("policy_loss", clipped.losses.sum(), mask.sum())
        self._record_entropy(scored, mask, sums)
        sums.add("clip_fraction/policy", clipped.is_clipped.sum(), mask.sum())
        per_completion = clipped.losses.sum(1)
        if args.kl_placement == "loss":
            divergence = objectives.kl_loss(
                scored.logps,
                batch["ref_per_token_logps"],
                mask,
                estimator=args.kl_estimator,
                level=args.kl_level,
                old_logps=old_logps,
            )
            sums.add("kl_loss", divergence.sum(), mask.any(1).sum())
            self._record_weights(sums, scored.logps.detach(), old_logps, mask)
            per_completion = per_completion + batch["loss_kl_coef"] * divergence
        return self._with_aux_loss(per_completion.mean() / batch["mean_length"], scored, sums)

    def critic_loss(self, batch: dict[str, Tensor], sums: MeanMetrics) -> Tensor:
        """`vf_coef` times: per completion Σ_t clipped squared error, over the rollout's mean length."""
        mask = batch["loss_mask"]
        values = self.critic_forward(batch)
        clipped = objectives.value_loss(
            values, batch["values"], batch["returns"], mask, epsilon=self.args.cliprange_value
        )
        sums.add("value_loss", clipped.losses.sum(), mask.sum())
        sums.add("clip_fraction/value", clipped.is_clipped.sum(), mask.sum())
        return self.args.vf_coef * clipped.losses.sum(1).mean() / batch["mean_length"]

    def critic_forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Values (B, C) with gradient."""
        length = batch["completion_ids"].size(1)
        with self.accelerator.autocast():  # transformers' autocast covers only the model's own forward
            return roles.values(self.model, *sequences(batch), length)

    def _record_weights(self, sums: MeanMetrics, logps: Tensor, old_logps: Tensor, mask: Tensor) -> None:
        """Add the importance weights of the KL in the loss: of completions at sequence level, of tokens at token level."""
        weights, weighs = objectives.kl_weights(logps, old_logps, mask, level=self.args.kl_level)
        sums.add("kl_weight/mean", masked.apply(weights, weighs).sum(), weighs.sum())
        self._largest_weights.append(masked.apply(weights, weighs).max())

    # Metrics and state ------------------------------------------------------------------------------------------

    def close(self, mode: str) -> None:
        super().close(mode)
        if self._largest_weights:
            largest = self.accelerator.gather(torch.stack(self._largest_weights).max())
            self.metrics.record(mode, {"kl_weight/max": largest.max().item()})
            self._largest_weights.clear()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"kl_controller": self.kl_controller.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.kl_controller.load_state_dict(state["kl_controller"])
