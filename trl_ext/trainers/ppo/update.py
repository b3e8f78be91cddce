"""Learn from a rollout by a policy gradient: rewards per token and advantages; then the losses of policy and critic.

The first two methods of `PPOUpdate` give the order: `targets` for a rollout, `learn` for a batch of it.
`trl_ext.trainers.rollout.update` lists the order of a whole optimizer step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.reference import modules
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.rl import advantages, aggregation, kl, masked, objectives
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.ppo import equal_scores
from trl_ext.trainers.ppo.surrogate import surrogate
from trl_ext.trainers.ppo.targets import OLD_LOGPS, REF_LOGPS, SAMPLING_LOGPS, Rollout
from trl_ext.trainers.rollout import correction, distances, roles, token_ids
from trl_ext.trainers.rollout.generation import memory_reported
from trl_ext.trainers.rollout.sampled import Sampled
from trl_ext.trainers.rollout.update import RolloutUpdate, completions_per_prompt


class PPOUpdate(RolloutUpdate):
    """Trains a policy and, if the advantage needs one, a critic on one base, with separate gradients.

    Args:
        kl_controller: Holds the KL coefficient; updated once per rollout.
        shared: Arguments of `RolloutUpdate`.

    Attributes:
        advantage: Declaration of the advantage.
    """

    def __init__(self, *, kl_controller: kl.FixedController, **shared: Any) -> None:
        super().__init__(**shared)
        self.kl_controller = kl_controller
        self.advantage = advantages.describe(self.args.advantage)
        self.needs_greedy = self.advantage.needs_greedy
        self._surrogate = surrogate(self.args)
        self._weighs_kl = getattr(self.args, "use_bias_correction_kl", True)  # a setting of GRPO alone

    @property
    def needs_reference(self) -> bool:
        return self.kl_controller.value != 0 or self._has_own_loss

    def needs_logps(self, mode: str) -> bool:
        """For a KL in the reward, for an adaptive coefficient, and where the update runs another policy than the one that sampled.

        The policies are the same in an evaluation, and in training if a rollout is learnt from in a single optimizer step
        without dropout: then π/π_old is 1, as in `trl.GRPOTrainer`.
        """
        args = self.args
        is_in_reward = self.kl_controller.value != 0 and args.kl_placement == "reward"
        if is_in_reward or args.kl_controller == "adaptive" or self._has_own_loss:
            return True
        uses = args.steps_per_generation * args.num_iterations  # micro-batches that a rollout is used in
        return mode == "train" and (args.gradient_accumulation_steps % uses != 0 or self._has_dropout())

    def targets(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> tuple[dict[str, Any], Tensor]:
        size, count = completions_per_prompt(self.args, mode), len(sampled.mask)
        first = self.accelerator.process_index * count
        rollout = Rollout(
            **vars(sampled),
            groups=torch.arange(first, first + count, device=sampled.mask.device) // size,
            values=self._values(batch) if self.advantage.needs_critic else None,
        )
        kl_coef = self.kl_controller.value
        shaped = rollout.shaped_rewards(self.args, kl_coef)
        targets = rollout.targets(shaped, self.args, kl_coef, self.add_up)
        self._record_rollout(rollout, shaped, targets, size, mode)
        if mode == "train" and self.args.kl_controller == "adaptive":
            self._steer_kl(rollout)
        mask, sampling_logps = targets["loss_mask"], sampled.sampling_logps
        if sampled.logps is not None:
            sums = self.metrics.sums[mode]
            targets |= correction.weights(sampled.logps, sampling_logps, mask, self.args, sums)
        elif sampling_logps is not None:
            targets[SAMPLING_LOGPS] = sampling_logps
        return batch | targets, masked.total(targets["token_advantages"], mask) / mask.sum(1).clamp(min=1)

    def learn(self, batch: dict[str, Tensor], accumulation: float) -> Tensor:
        # One role after the other, so that only one role's graph is in memory.
        loss = self.learn_as(roles.POLICY, batch, accumulation)
        return loss + self.learn_as(roles.CRITIC, batch, accumulation) if self.advantage.needs_critic else loss

    def learn_as(self, role: str, batch: dict[str, Tensor], accumulation: float) -> Tensor:
        """Forward and backward of one role on a batch; returns its loss, without gradient."""
        is_policy = role == roles.POLICY
        loss_of = self.policy_loss if is_policy else self.critic_loss
        phase = f"in the {'policy' if is_policy else 'critic'}'s update"
        with roles.acting_as(self.model, role):
            parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            sums = self.metrics.sums["train"]
            return self.backward.run(phase, loss_of, batch, parameters, sums, accumulation)

    def parameters(self) -> list[nn.Parameter]:
        critic = roles.critic_parameters(self.model) if self.advantage.needs_critic else []
        return [*super().parameters(), *critic]

    # A rollout --------------------------------------------------------------------------------------------------

    def _values(self, batch: dict[str, Any]) -> Tensor:
        """Values (B, C) of a rollout."""
        with (
            memory_reported("while the critic computed values", is_training=self.model.training, cuts_rows=True),
            roles.acting_as(self.model, roles.CRITIC),
            no_grad_eval(self.model),
        ):
            return self.values(batch)

    @property
    def _has_own_loss(self) -> bool:
        """Whether a function was assigned to `policy_loss`, which may read all log-probabilities from the batch."""
        return "policy_loss" in vars(self)

    def _has_dropout(self) -> bool:
        config = self.model.get_base_model().config.get_text_config()
        return modules.has_dropout(self.model) or bool(getattr(config, "attention_dropout", 0))

    def _record_rollout(self, rollout: Rollout, shaped: Tensor, targets: dict, size: int, mode: str) -> None:
        self.metrics.keep_largest(rollout.record(self.metrics.sums[mode], shaped, targets))
        means = {"kl_coef": self.kl_controller.value}
        means["advantages/std"] = targets["advantage_std"].item()
        if self.advantage.needs_critic:
            means["explained_variance"] = rollout.explained_variance(targets["returns"], self.add_up).item()
        if self.advantage.needs_groups:
            scores = rollout.penalised_scores(self.args.missing_eos_penalty)
            means["groups/ties"] = equal_scores.share_of_ties(self._compared(rollout, scores).view(-1, size))
            rewards = self._compared(rollout, masked.total(shaped.double(), rollout.compared))
            whole = "scale_rewards" in self.advantage.hyperparameters and self.args.scale_rewards == "batch"
            means["frac_reward_zero_std"] = equal_scores.share_without_deviation(
                rewards.view(1, -1) if whole else rewards.view(-1, size)
            )
        self.metrics.record(mode, means)

    def _compared(self, rollout: Rollout, values: Tensor) -> Tensor:
        """The values of all processes, from this one's (B,); NaN for completions that are not compared."""
        return self.accelerator.gather(values.masked_fill(~rollout.compared.any(1), torch.nan))

    def _steer_kl(self, rollout: Rollout) -> None:
        known = distances.kl_total_and_count(rollout.logps, rollout.ref_logps, rollout.mask)
        total, count = self.add_up(known).tolist()
        self.kl_controller.update(total / max(count, 1), int(count))

    # The losses -------------------------------------------------------------------------------------------------

    def policy_loss(self, batch: dict[str, Tensor], sums: MeanMetrics) -> Tensor:
        """Per completion Σ_t surrogate + kl_coef·KL, weighted as `loss_aggregation` says; their mean."""
        args, mask = self.args, batch["loss_mask"]
        scored = self.score(batch)
        batch = self._with_old_logps(batch, scored.logps.detach(), sums)
        old_logps = batch[OLD_LOGPS]
        clipped = correction.weighted(self._surrogate, args, scored.logps, batch)
        sums.add("policy_loss", clipped.losses.sum(), mask.sum())
        self._record_entropy(scored, mask, sums)
        self._record_clipping(clipped.is_clipped, scored.logps.detach() - old_logps, mask, sums)
        per_completion = clipped.losses.sum(1)
        if args.kl_placement == "loss" and REF_LOGPS in batch:
            divergence = objectives.kl_loss(
                scored.logps,
                batch[REF_LOGPS],
                mask,
                estimator=args.kl_estimator,
                level=args.kl_level,
                old_logps=old_logps if self._weighs_kl else None,
                sampling_ratio=batch.get(correction.KL_RATIO, 1),
            )
            sums.add("kl_loss", divergence.sum(), mask.any(1).sum())
            self._record_weights(sums, scored.logps.detach(), old_logps, mask)
            per_completion = per_completion + batch["loss_kl_coef"] * divergence
        weights = aggregation.weights(
            mask, args.loss_aggregation, mean_length=batch["mean_length"], max_length=args.max_completion_length
        )
        return self._with_aux_loss((weights * per_completion).mean(), scored, sums)

    def _with_old_logps(self, batch: dict[str, Tensor], logps: Tensor, sums: MeanMetrics) -> dict[str, Tensor]:
        """The batch, with what follows from the log-probabilities of the policy that sampled.

        Args:
            logps: (B, C), of the update's own pass. They are those of the policy that sampled if the batch has no others.
        """
        if OLD_LOGPS in batch:
            return batch
        mask, sampling_logps = batch["loss_mask"], batch.get(SAMPLING_LOGPS)
        apart = distances.record(sums, logps, mask, ref_logps=batch.get(REF_LOGPS), sampling_logps=sampling_logps)
        self.metrics.keep_largest(apart)
        weights = correction.weights(logps, sampling_logps, mask, self.args, sums)
        return batch | {OLD_LOGPS: logps} | weights

    def critic_loss(self, batch: dict[str, Tensor], sums: MeanMetrics) -> Tensor:
        """`vf_coef` times: per completion Σ_t clipped squared error, over the rollout's mean length."""
        mask = batch["loss_mask"]
        values = self.values(batch)
        clipped = objectives.value_loss(
            values, batch["values"], batch["returns"], mask, epsilon=self.args.cliprange_value
        )
        sums.add("value_loss", clipped.losses.sum(), mask.sum())
        sums.add("clip_fraction/value", clipped.is_clipped.sum(), mask.sum())
        return self.args.vf_coef * clipped.losses.sum(1).mean() / batch["mean_length"]

    def values(self, batch: dict[str, Tensor]) -> Tensor:
        """The value (B, C) of the state before each token of the completions, with gradient in one row if it is enabled.

        Call it inside `acting_as(model, CRITIC)`.
        """
        width = batch["completion_ids"].size(1)
        return self.rows.scalars(token_ids.trees(batch), width, self.model.value_head)

    def _record_clipping(self, is_clipped: Tensor, log_ratios: Tensor, mask: Tensor, sums: MeanMetrics) -> None:
        """Add the shares of tokens whose ratio was clipped: all, those below 1 and those above."""
        log_ratios = masked.apply(log_ratios, mask)
        if self.args.importance_sampling_level != "token":
            log_ratios = log_ratios.sum(1, keepdim=True)
        clipped = {"policy": is_clipped, "low": is_clipped & (log_ratios < 0), "high": is_clipped & (log_ratios > 0)}
        for name, where in clipped.items():
            sums.add(f"clip_fraction/{name}", where.sum(), mask.sum())

    def _record_weights(self, sums: MeanMetrics, logps: Tensor, old_logps: Tensor, mask: Tensor) -> None:
        """Add the importance weights of the KL in the loss: of completions at sequence level, of tokens at token level."""
        weights, weighs = objectives.kl_weights(logps, old_logps, mask, level=self.args.kl_level)
        sums.add("kl_weight/mean", masked.apply(weights, weighs).sum(), weighs.sum())
        self.metrics.keep_largest({"kl_weight/max": masked.apply(weights, weighs).max()})

    # Metrics and state ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"kl_controller": self.kl_controller.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.kl_controller.load_state_dict(state["kl_controller"])
