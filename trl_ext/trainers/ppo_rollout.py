"""How PPO samples: TRL's rollout, watched, and what PPO learns from it added."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trl_ext.reference.implicit import no_grad_eval, policy_is_reference
from trl_ext.rl import masked
from trl_ext.trainers import out_of_memory, ppo_settings, reward_functions, roles
from trl_ext.trainers.metrics import MeanMetrics
from trl_ext.trainers.rollout import Rollout
from trl_ext.trainers.step_zero import WrongInitialLossError

SAME = 1e-3
"""Nats per token between policies of equal weights: what 16-bit arithmetic may do, far below what a swap would."""


@dataclass
class Seen:
    """What TRL computes in the middle of a rollout and does not return.

    Attributes:
        logps: (B, C) under the policy, then under the reference.
        rewards: (B over all processes, reward functions).
        is_ended: Whether each completion of this process ended by itself.
    """

    logps: list[Tensor] = field(default_factory=list)
    rewards: Tensor | None = None
    is_ended: list[bool] = field(default_factory=list)


class PPORollout:
    """Mixin before `trl.RLOOTrainer`; overrides `_generate_and_score_completions`, `_generate_single_turn`,
    `_get_per_token_logps_and_entropies` and `_calculate_rewards`.

    Attributes read: `args`, `model`, `state`, `reward_funcs`, `reward_func_names`, `reward_weights`,
    `reward_clip_range`, `eos_token_ids`, `num_generations`, `kl_controller`, `_metrics`, `_logs`.
    """

    _seen: Seen | None = None  # what TRL computed so far, during a rollout

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        # TRL casts the whole model for continuous batching, for good.
        saying = self._saying("while completions were sampled", is_generation=True)
        with ppo_settings.unchanged(self.model), saying, self._sampling():
            return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple:
        if self._seen is None:
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        with self._saying("while completions were scored under policy and reference"):
            output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._seen.logps.append(output[0])
        return output

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        with self._saying("while rewards were computed"):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        reward_functions.check_models(self.reward_funcs, self.reward_func_names, rewards)
        if self._seen is not None:
            self._seen.rewards = rewards
            self._seen.is_ended = [ids[-1] in self.eos_token_ids for ids in completion_ids_list]
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        """TRL's rollout, and what PPO learns from it."""
        mode = "train" if self.model.training else "eval"
        self._seen = Seen()
        batch = super()._generate_and_score_completions(inputs)
        seen, self._seen = self._seen, None
        logps, ref_logps = seen.logps
        rollout = Rollout(
            logps=logps,
            ref_logps=ref_logps,
            values=self._rollout_values(batch),
            mask=batch["completion_mask"],
            scores=self._scores(seen.rewards, len(inputs)),
            is_ended=torch.tensor(seen.is_ended, device=logps.device),
        )
        self._check_first(rollout)
        kl_coef = self.kl_controller.value
        shaped = rollout.shaped_rewards(self.args, kl_coef)
        targets = rollout.targets(shaped, self.args, kl_coef, self._add_up)
        self._record_rollout(rollout, shaped, targets["returns"], mode)
        self._show_advantages(targets)
        if mode == "train":
            total, count = self._add_up(rollout.kl_total_and_count()).tolist()
            self.kl_controller.update(total / max(count, 1), int(count))
        return batch | targets

    def _check_first(self, rollout: Rollout) -> None:
        """Policy and reference of equal weights must agree, or one of them is not what it is taken for.

        Raises:
            WrongInitialLossError: They do not.
        """
        if self.state.global_step > 0 or not self.args.disable_dropout or not policy_is_reference(self.model):
            return
        difference = masked.total((rollout.logps - rollout.ref_logps).abs(), rollout.mask).sum() / rollout.mask.sum()
        if difference > SAME:
            raise WrongInitialLossError(
                f"Policy and reference have the same weights before the first step, and yet their log-probabilities "
                f"differ by {difference:.3g} nats per token: the KL would be measured against something else."
            )

    def _rollout_values(self, batch: dict[str, Any]) -> Tensor:
        """Values (B, C) of a rollout, in chunks of a micro-batch as TRL takes its log-probabilities."""
        size = self.args.per_device_train_batch_size
        input_ids, attention_mask = sequences(batch)
        length = batch["completion_ids"].size(1)
        with (
            self._saying("while the critic valued completions"),
            roles.acting_as(self.model, roles.CRITIC),
            no_grad_eval(self.model),
            self.compute_loss_context_manager(),
        ):
            chunks = zip(input_ids.split(size), attention_mask.split(size), strict=True)
            return torch.cat([roles.values(self.model, ids, mask, length) for ids, mask in chunks])

    def _scores(self, rewards: Tensor, count: int) -> Tensor:
        """Weighted sum (B,) of this process's rewards, clipped if asked for; NaN where no source applied."""
        start = self.accelerator.process_index * count
        mine = rewards[start : start + count]
        scores = (mine * self.reward_weights.to(mine.device)).nansum(dim=1)
        if self.reward_clip_range:
            scores = scores.clamp(*self.reward_clip_range)
        return scores.masked_fill(mine.isnan().all(dim=1), torch.nan)

    def _record_rollout(self, rollout: Rollout, shaped: Tensor, returns: Tensor, mode: str) -> None:
        history = self._metrics[mode]
        history.pop("kl", None)  # TRL's token mean under a name that elsewhere is a sum
        if self.num_generations == 1:
            history.pop("frac_reward_zero_std", None)  # of one completion per prompt it is always 1
        sums = MeanMetrics()
        rollout.record(sums, shaped, returns)
        for name, value in sums.reduce(self.accelerator).means().items():
            history[name].append(value)
        history["explained_variance"].append(rollout.explained_variance(returns, self._add_up).item())
        history["kl_coef"].append(self.kl_controller.value)

    def _show_advantages(self, targets: dict[str, Tensor]) -> None:
        """In the table of completions, the mean advantage of each one's tokens instead of RLOO's."""
        mask = targets["loss_mask"]
        means = masked.total(targets["token_advantages"], mask) / mask.sum(1).clamp(min=1)
        gathered = self.accelerator.gather(means).tolist()
        shown = self._logs["advantages"]
        for _ in range(min(len(gathered), len(shown))):
            shown.pop()
        shown.extend(gathered)

    def _saying(self, phase: str, is_generation: bool = False) -> AbstractContextManager:
        """Inside, running out of memory names the phase and the settings that its memory grows with."""
        batch = f"`per_device_{'train' if self.model.training else 'eval'}_batch_size`"
        # A rollout is sampled whole, and scored a micro-batch at a time.
        rollout = self.model.training and is_generation
        together = f"{batch}, `steps_per_generation` or `gradient_accumulation_steps`" if rollout else batch
        return out_of_memory.saying(
            phase, f"lower {together}, or `max_completion_length`, or free memory on the device"
        )

    def _add_up(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum")


def sequences(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (B, P + C) of prompts and completions."""
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return input_ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
