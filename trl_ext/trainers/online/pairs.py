"""What online preference training learns from a rollout: the best and the worst completion of each prompt as a pair."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trl_ext.rl import masked
from trl_ext.rl.pairs import best_and_worst
from trl_ext.trainers.rollout.data import Sampled
from trl_ext.trainers.rollout.generation import Rollouts


class OnlinePairs(Rollouts):
    """Mixin before `trl.RLOOTrainer`. Attributes read besides those of `Rollouts`: `num_generations`,
    `num_generations_eval`, and `_sums`, the running sums of an optimizer step's metrics.
    """

    def _learnable(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> dict[str, Any]:
        """TRL's rollout as P pairs.

        Returns:
            `prompt_ids`, `prompt_mask` (P, L); `completion_ids`, `completion_mask` (P, 2, C), the chosen one first;
            `ref_logps` (P, 2), summed over tokens, where the loss reads a reference; `weight` (P,), 0 without a preference
            and else such that it is 1 on average over all processes.
        """
        mask = batch["completion_mask"]
        sampled = replace(sampled, scores=sampled.scores.masked_fill(~mask.any(1), torch.nan))
        scores = sampled.penalised_scores(self.args.missing_eos_penalty)
        generations = self.num_generations if mode == "train" else self.num_generations_eval
        pairs, has_preference = best_and_worst(scores, generations)
        self._record_pairs(sampled, scores, pairs[has_preference], len(pairs), mode)
        kept, count = self._add_up(torch.stack([has_preference.sum(), torch.ones_like(has_preference).sum()]))
        cut = {"weight": has_preference * count / kept.clamp(min=1)}
        if sampled.ref_logps is not None:
            cut["ref_logps"] = masked.total(sampled.ref_logps, mask)[pairs]
        cut |= {name: batch[name][pairs[:, 0]] for name in ("prompt_ids", "prompt_mask")}
        return cut | {name: batch[name][pairs] for name in ("completion_ids", "completion_mask")}

    def _record_pairs(self, sampled: Sampled, scores: Tensor, pairs: Tensor, count: int, mode: str) -> None:
        """Add the metrics of a rollout; `pairs` are those with a preference, of `count`."""
        sums = self._sums[mode]
        sampled.record_samples(sums)
        sums.add("score/margin", scores[pairs].diff().neg().sum(), len(pairs))
        sums.add("pairs/ties", count - len(pairs), count)
        verdict = torch.zeros_like(scores)
        verdict[pairs] = verdict.new_tensor([1.0, -1.0])
        self._show(verdict)
