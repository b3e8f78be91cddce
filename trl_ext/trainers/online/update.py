"""Learn from pairs of a rollout: the best and the worst completion of each prompt, and a loss of `trl_ext.losses`.

The first two methods of `PairUpdate` give the order: `targets` for a rollout, `learn` for a batch of it.
`trl_ext.trainers.rollout.update` lists the order of a whole optimizer step.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trl_ext.rl import masked
from trl_ext.rl.pairs import best_and_worst
from trl_ext.trainers.common.example_losses import checked
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.step_zero import APART
from trl_ext.trainers.rollout.sampled import Sampled
from trl_ext.trainers.rollout.update import RolloutUpdate, completions_per_prompt

SIDES = "chosen", "rejected"
LOSS = "loss"  # summed for the check of the first step; not logged, since transformers logs the loss


class PairUpdate(RolloutUpdate):
    """Trains the policy on sampled pairs.

    Args:
        loss: A loss on pairs.
        adjust: Changes the losses of pairs (`ExampleLosses.example_losses`).
        check_first_step: Called once, when the first optimizer step is complete, with its mean loss over all pairs with a
            preference (`None` without any) and the mean distance of policy and reference, in nats per token (`None` for a
            loss without a reference).
        shared: Arguments of `RolloutUpdate`.
    """

    example = "pair"
    unlogged = (*RolloutUpdate.unlogged, LOSS, APART)

    def __init__(
        self,
        *,
        loss: Any,
        adjust: Callable[[Tensor, dict[str, Tensor]], Tensor],
        check_first_step: Callable[[float | None, float | None], None],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.loss = loss
        self.adjust = adjust
        self._check_first_step: Callable | None = check_first_step

    @property
    def needs_reference(self) -> bool:
        return self.loss.needs_reference

    def targets(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> tuple[dict[str, Any], Tensor]:
        """TRL's rollout as P pairs.

        Returns:
            `prompt_ids`, `prompt_mask` (P, L); `completion_ids`, `completion_mask` (P, 2, C), the chosen one first;
            `ref_logps` (P, 2), summed over tokens, if the loss reads a reference; `margin` (P,), the difference of the two scores, if
            it reads that; `weight` (P,), 0 for pairs without a
            preference and equal for the others, with mean 1 over all processes. And for the table of completions (B,): 1
            for a chosen completion, −1 for a rejected one, 0 for the others.
        """
        args, mask = self.args, batch["completion_mask"]
        sampled = replace(sampled, scores=sampled.scores.masked_fill(~mask.any(1), torch.nan))
        scores = sampled.penalised_scores(args.missing_eos_penalty)
        pairs, has_preference = best_and_worst(scores, completions_per_prompt(args, mode))
        self._record_rollout(sampled, scores, pairs[has_preference], len(pairs), mode)
        kept, count = self.add_up(torch.stack([has_preference.sum(), torch.ones_like(has_preference).sum()]))
        cut = {"weight": has_preference * count / kept.clamp(min=1)}
        if sampled.ref_logps is not None:
            cut["ref_logps"] = masked.total(sampled.ref_logps, mask)[pairs]
        if "margin" in self.loss.inputs:  # NaN without two scores
            cut["margin"] = (scores[pairs[:, 0]] - scores[pairs[:, 1]]).nan_to_num()
        cut |= {name: batch[name][pairs[:, 0]] for name in ("prompt_ids", "prompt_mask")}
        cut |= {name: batch[name][pairs] for name in ("completion_ids", "completion_mask")}
        verdict = torch.zeros_like(scores)
        verdict[pairs[has_preference]] = verdict.new_tensor([1.0, -1.0])
        return cut, verdict

    def learn(self, batch: dict[str, Tensor], accumulation: float) -> Tensor:
        sums = self.metrics.sums["train"]
        return self.backward.run("in the update", self.policy_loss, batch, self.parameters(), sums, accumulation)

    def _record_rollout(self, sampled: Sampled, scores: Tensor, pairs: Tensor, count: int, mode: str) -> None:
        """Add the metrics of a rollout; `pairs` are those with a preference, of `count`."""
        sums = self.metrics.sums[mode]
        self.metrics.keep_largest(sampled.record_samples(sums))
        sums.add("score/margin", scores[pairs].diff().neg().sum(), len(pairs))
        sums.add("pairs/ties", count - len(pairs), count)

    # The loss ---------------------------------------------------------------------------------------------------

    def policy_loss(self, batch: dict[str, Tensor], sums: MeanMetrics) -> Tensor:
        """Mean of weight × loss over the pairs; pairs without a preference are not run."""
        is_kept = batch["weight"] > 0
        is_run = is_kept | (
            torch.arange(len(is_kept), device=is_kept.device) == 0
        )  # at least one pair, to have a graph
        run = {name: value[is_run] for name, value in batch.items()}
        flat = _flat(run)
        scored, mask = self.score(flat), flat["completion_mask"]
        fields = {"{}_logps": masked.total(scored.logps, mask).view(-1, 2), "{}_lens": mask.sum(1).view(-1, 2)}
        if "ref_logps" in run:
            fields["ref_{}_logps"] = run["ref_logps"]
        tensors = {
            name.format(side): fields[name][is_kept[is_run], i] for i, side in enumerate(SIDES) for name in fields
        }
        if "margin" in run:
            tensors["margin"] = run["margin"][is_kept[is_run]]
        output = self.loss(**{name: tensors[name] for name in self.loss.inputs})
        output = output._replace(losses=checked(self.adjust(output.losses, tensors), output.losses))
        loss = (output.losses * batch["weight"][is_kept]).sum() / len(is_kept)
        self._record_losses(output, tensors, sums)
        self._record_entropy(scored, mask, sums)
        return self._with_aux_loss(loss, scored, sums)

    def _record_losses(self, output: Any, tensors: dict[str, Tensor], sums: MeanMetrics) -> None:
        """Add the metrics of pairs with a preference."""
        margins = output.chosen_rewards - output.rejected_rewards
        means = {"chosen": output.chosen_rewards, "rejected": output.rejected_rewards}
        means |= {"accuracies": margins > 0, "margins": margins}
        for name, values in means.items():
            sums.add(f"rewards/{name}", values.sum(), len(values))
        sums.add(LOSS, output.losses.sum(), len(output.losses))
        if self.loss.needs_reference:
            ratios = [tensors[f"{side}_logps"] - tensors[f"ref_{side}_logps"] for side in SIDES]
            apart = sum(
                (ratio.abs() / tensors[f"{side}_lens"]).sum() for side, ratio in zip(SIDES, ratios, strict=True)
            )
            sums.add(APART, apart, 2 * len(output.losses))

    # Metrics ----------------------------------------------------------------------------------------------------

    def close(self, mode: str) -> dict[str, float]:
        found = super().close(mode)
        if mode == "train" and self._check_first_step is not None:
            check, self._check_first_step = self._check_first_step, None
            check(found.get(LOSS), found.get(APART))
        return found


def _flat(pairs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The completions of P pairs as rows: `completion_ids`, `completion_mask` (2P, C); `prompt_ids`, `prompt_mask` (2P, L)."""
    flat = {name: pairs[name].flatten(0, 1) for name in ("completion_ids", "completion_mask")}
    return flat | {name: pairs[name].repeat_interleave(2, dim=0) for name in ("prompt_ids", "prompt_mask")}
