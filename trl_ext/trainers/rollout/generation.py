"""Collect what TRL computes while it samples and scores a rollout, and check it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.rl import masked
from trl_ext.trainers.common import out_of_memory
from trl_ext.trainers.common.step_zero import WrongInitialLossError
from trl_ext.trainers.rollout.sampled import Sampled
from trl_ext.trainers.rollout.sampling_logps import padded

SAME = 1e-3
"""Tolerance in nats per token between policies of equal weights: 16-bit rounding stays below it, a wrong reference does not."""


@dataclass
class Observed:
    """Values that TRL computes during a rollout and does not return.

    Attributes:
        logps: (B, C) under the policy, then under the reference if it is run.
        rewards: (B over all processes, reward functions), NaN where a function does not apply.
        is_ended: Whether each completion of this process has an end token.
        sampling_logps: (B, T) under the weights that sampled, NaN where they are not known; `None` if these are the policy's.
        sampled_by: A merged copy that sampled and under which the completions have yet to be scored.
    """

    logps: list[Tensor] = field(default_factory=list)
    rewards: Tensor | None = None
    is_ended: list[bool] = field(default_factory=list)
    sampling_logps: Tensor | None = None
    sampled_by: nn.Module | None = None

    def sampled(self, mask: Tensor, scores: Tensor) -> Sampled:
        """The completions of this process with their scores (B,); the mask is (B, C)."""
        return Sampled(
            logps=self.logps[0],
            ref_logps=self.logps[1] if len(self.logps) > 1 else None,
            mask=mask,
            scores=scores,
            is_ended=torch.tensor(self.is_ended, device=self.logps[0].device),
            sampling_logps=self._padded_sampling_logps(mask.size(1)),
        )

    def _padded_sampling_logps(self, length: int) -> Tensor | None:
        found = self.sampling_logps
        return None if found is None else padded(found.to(self.logps[0].device), length)


def weighted_scores(rewards: Tensor, weights: Tensor, clip_range: tuple[float, float] | None) -> Tensor:
    """Weighted sum (B,) of rewards (B, sources), clipped if asked for; NaN where no source applied."""
    scores = (rewards * weights.to(rewards.device)).nansum(dim=1)
    if clip_range:
        scores = scores.clamp(*clip_range)
    return scores.masked_fill(rewards.isnan().all(dim=1), torch.nan)


def check_equal(sampled: Sampled) -> None:
    """Check that a policy and a reference of equal weights agree.

    Raises:
        WrongInitialLossError: They differ, so one of them is the wrong model.
    """
    difference = masked.total((sampled.logps - sampled.ref_logps).abs(), sampled.mask).sum() / sampled.mask.sum()
    if difference > SAME:
        raise WrongInitialLossError(
            f"Policy and reference have the same weights before the first step, but their log-probabilities differ by "
            f"{difference:.3g} nats per token. The KL would be measured against a wrong reference, so training was stopped."
        )


def memory_reported(
    phase: str, *, is_training: bool, is_sampling: bool = False, cuts_rows: bool = False
) -> AbstractContextManager:
    """Inside, an out-of-memory error names the phase and the settings that its memory depends on.

    Args:
        phase: Text after "Out of memory".
        is_training: Not an evaluation.
        is_sampling: All completions of a rollout are sampled together.
        cuts_rows: Rows are shortened until they fit, so that the number of completions does not matter.
    """
    batch = f"`per_device_{'train' if is_training else 'eval'}_batch_size`"
    is_whole = is_training and is_sampling
    together = f"{batch}, `steps_per_generation` or `gradient_accumulation_steps`" if is_whole else batch
    lower = "" if cuts_rows else f"{together}, or "
    return out_of_memory.reported(phase, f"lower {lower}`max_completion_length`, or free memory on the device")


def sequences(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (B, P + C) of prompts and completions."""
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return input_ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
