"""Collect what TRL computes while it samples and scores a rollout."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.trainers.common import out_of_memory
from trl_ext.trainers.rollout.rows import Scored
from trl_ext.trainers.rollout.sampled import Sampled
from trl_ext.trainers.rollout.sampling_logps import padded


@dataclass
class Observed:
    """Values that TRL computes during a rollout and does not return.

    Attributes:
        logps, ref_logps: (B, C) under policy and reference; `None` for one that is not run.
        is_policy_done: Whether TRL has asked for the policy's log-probabilities, which it does before the reference's.
        rewards: (B over all processes, reward functions), NaN where a function does not apply.
        is_ended: Whether each completion of this process has an end token.
        sampling_logps: (B, T) under the weights that sampled, NaN where they are not known; `None` if these are the policy's.
        sampled_by: A merged copy that sampled and under which the completions have yet to be scored.
    """

    logps: Tensor | None = None
    ref_logps: Tensor | None = None
    is_policy_done: bool = False
    rewards: Tensor | None = None
    is_ended: list[bool] = field(default_factory=list)
    sampling_logps: Tensor | None = None
    sampled_by: nn.Module | None = None

    def of_policy(self, scored: Scored) -> Scored:
        """Keep the log-probabilities of the policy."""
        self.is_policy_done, self.logps = True, scored.logps
        return scored

    def of_no_policy(self, rows: int, width: int, device: torch.device) -> Scored:
        """Zeros (B, C) in place of the policy's log-probabilities, which nothing reads before the update."""
        self.is_policy_done = True
        nothing = torch.zeros(rows, width, device=device)
        return Scored(nothing, nothing, None)

    def of_reference(self, scored: Scored) -> Scored:
        """Keep the log-probabilities of the reference."""
        self.ref_logps = scored.logps
        return scored

    def of_sources(self, rewards: Tensor, is_ended: list[bool]) -> None:
        """Keep the rewards of all processes, and which completions of this one have an end token."""
        self.rewards, self.is_ended = rewards, is_ended

    def take_copy(self) -> nn.Module:
        """`sampled_by`, which is then `None`."""
        copy, self.sampled_by = self.sampled_by, None
        return copy

    def sampled(self, mask: Tensor, scores: Tensor) -> Sampled:
        """The completions of this process with their scores (B,); the mask is (B, C)."""
        found = self.sampling_logps
        return Sampled(
            logps=self.logps,
            ref_logps=self.ref_logps,
            mask=mask,
            scores=scores,
            is_ended=torch.tensor(self.is_ended, device=mask.device),
            sampling_logps=None if found is None else padded(found.to(mask.device), mask.size(1)),
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
