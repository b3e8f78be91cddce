"""How completions are sampled and scored: TRL's rollout, watched, whatever is then learned from it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trl_ext.reference.implicit import policy_is_reference
from trl_ext.rl import masked
from trl_ext.trainers.common import out_of_memory
from trl_ext.trainers.common.step_zero import WrongInitialLossError
from trl_ext.trainers.rollout import reward_functions
from trl_ext.trainers.rollout.data import Sampled
from trl_ext.trainers.rollout.unchanged import unchanged

SAME = 1e-3
"""Nats per token between policies of equal weights: what 16-bit arithmetic may do, far below what a swap would."""

OF_RLOO = ("kl", "frac_reward_zero_std")
"""TRL's token mean under a name that elsewhere is a sum; and a share of prompts by rewards less RLOO's own KL."""


@dataclass
class Seen:
    """What TRL computes in the middle of a rollout and does not return.

    Attributes:
        logps: (B, C) under the policy, then under the reference if there is a pass of it.
        rewards: (B over all processes, reward functions).
        is_ended: Whether each completion of this process ended by itself.
    """

    logps: list[Tensor] = field(default_factory=list)
    rewards: Tensor | None = None
    is_ended: list[bool] = field(default_factory=list)


class Rollouts:
    """Mixin before `trl.RLOOTrainer`; overrides `_generate_and_score_completions`, `_generate_single_turn`,
    `_get_per_token_logps_and_entropies` and `_calculate_rewards`.

    A subclass provides `_learnable`. Attributes read: `args`, `model`, `state`, `reward_funcs`, `reward_func_names`,
    `reward_weights`, `reward_clip_range`, `eos_token_ids`, `_metrics`, `_logs`.
    """

    _seen: Seen | None = None  # what TRL computed so far, during a rollout

    def _learnable(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> dict[str, Any]:
        """What an update learns from, of TRL's rollout `batch`; logs the rollout's metrics under `mode`."""
        raise NotImplementedError

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        """TRL's rollout, and what is learned from it."""
        mode = "train" if self.model.training else "eval"
        self._seen = Seen()
        batch = super()._generate_and_score_completions(inputs)
        seen, self._seen = self._seen, None
        sampled = Sampled(
            logps=seen.logps[0],
            ref_logps=seen.logps[1] if len(seen.logps) > 1 else None,
            mask=batch["completion_mask"],
            scores=self._scores(seen.rewards, len(inputs)),
            is_ended=torch.tensor(seen.is_ended, device=seen.logps[0].device),
        )
        self._check_first(sampled)
        for name in OF_RLOO:
            self._metrics[mode].pop(name, None)
        deviation = sampled.score_deviation(self.args.missing_eos_penalty, self._add_up)
        self._metrics[mode]["score/std"].append(deviation.item())
        return self._learnable(batch, sampled, mode)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        saying = self._saying("while completions were sampled", is_generation=True)
        with unchanged(self.model), saying, self._sampling():
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

    def _scores(self, rewards: Tensor, count: int) -> Tensor:
        """Weighted sum (B,) of this process's rewards, clipped if asked for; NaN where no source applied."""
        start = self.accelerator.process_index * count
        mine = rewards[start : start + count]
        scores = (mine * self.reward_weights.to(mine.device)).nansum(dim=1)
        if self.reward_clip_range:
            scores = scores.clamp(*self.reward_clip_range)
        return scores.masked_fill(mine.isnan().all(dim=1), torch.nan)

    def _check_first(self, sampled: Sampled) -> None:
        """Policy and reference of equal weights must agree, or one of them is not what it is taken for.

        Raises:
            WrongInitialLossError: They do not.
        """
        is_known = self.state.global_step == 0 and self.args.disable_dropout and policy_is_reference(self.model)
        if not is_known or sampled.ref_logps is None:
            return
        difference = masked.total((sampled.logps - sampled.ref_logps).abs(), sampled.mask).sum() / sampled.mask.sum()
        if difference > SAME:
            raise WrongInitialLossError(
                f"Policy and reference have the same weights before the first step, and yet their log-probabilities "
                f"differ by {difference:.3g} nats per token: the KL would be measured against something else."
            )

    def _show(self, values: Tensor) -> None:
        """In the table of completions, these (B,) instead of RLOO's advantages."""
        gathered = self.accelerator.gather(values).tolist()
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
