"""Train any paired loss with TRL's DPO trainer.

Differences from `trl.DPOTrainer` (1.16):

1. The loss is one of `trl_ext.losses`, chosen by name. TRL's own loss code never runs.
2. A loss that does not read the reference runs no reference pass, and loads no second model in full fine-tuning.
3. An optimizer step is one batch, cut into rows that fit in memory (`trl_ext.trainers.preference.step`).
4. Adapter weights are float32 (`trl_ext.trainers.common.lora`).
5. The loss of the first step is compared with its known value (`trl_ext.trainers.common.step_zero`).
6. Precomputed reference log-probabilities are computed again when truncation or `ld_alpha` changes.
"""

from typing import Any

import torch
from datasets import Dataset
from torch import nn
from trl import DPOTrainer

from trl_ext.batching.token_kl import States, token_kl
from trl_ext.data.golds import GOLD
from trl_ext.trainers.common import forward
from trl_ext.trainers.common.forward import Completions, num_tokens
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.common.step_zero import APART
from trl_ext.trainers.preference import humanline
from trl_ext.trainers.preference.config import PairedPreferenceConfig
from trl_ext.trainers.preference.fixed_pairs import keyed
from trl_ext.trainers.preference.objective import CLIPPED, CLIPPED_TOKENS, Objective
from trl_ext.trainers.preference.trainer import PreferenceTrainer

VALUES = ("margin",)
"""Columns of numbers that losses read."""


def sides_of(loss: Any) -> tuple[str, ...]:
    """The completions of an example, in the order in which they are scored."""
    return ("chosen", "rejected", *(["gold"] if GOLD in loss.columns else []))


class PairedObjective(Objective):
    """Score rows of pairs under policy and reference, and evaluate a paired loss on them.

    Args:
        ld_alpha: Weight of the tokens beyond the shorter completion of a pair (LD-DPO), or `None`.
        use_weighting: Weigh pairs as in WPO.
        args, kwargs: For `Objective`.
    """

    def __init__(self, *args: Any, ld_alpha: float | None, use_weighting: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ld_alpha = ld_alpha
        self.use_weighting = use_weighting
        self.sides = len(sides_of(self.loss))

    def score(self, model: nn.Module, batch: dict) -> tuple[dict[str, torch.Tensor], Completions]:
        tensors, states = {}, [] if self.loss.reads_distributions else None
        learned = batch.get("learned")
        reference = self.references.score(batch).only(learned) if self.clip is not None else None
        if reference is not None:
            tensors["ref_chosen_logps"], tensors["ref_rejected_logps"] = self.sum_logps(reference).chunk(self.sides)
        elif self.loss.needs_reference:
            # Before the policy's forward, while no activations are held.
            tensors["ref_chosen_logps"], tensors["ref_rejected_logps"] = self.reference_logps(batch, states)
        fields = forward.run(model, batch, router_logits=self.router_aux_loss_coef is not None, states=states)
        fields = fields.only(learned)
        of_tokens = {"logps": self.sum_logps(fields), "lens": fields.lens}
        if states is not None:
            per_token = forward.token_table(batch, token_kl(*states, self.references.runtime.model.config))
            of_tokens["kl"] = self.summed(per_token * fields.mask, fields)
        for name, values in of_tokens.items():
            sides = zip(sides_of(self.loss), values.chunk(self.sides), strict=True)
            tensors |= {f"{side}_{name}": of_side for side, of_side in sides}
        if reference is not None:
            log_ratios, outside = self.clip.log_ratios(fields, reference)
            tensors[CLIPPED_TOKENS] = sum(outside.chunk(self.sides))
            for side, ratio in zip(sides_of(self.loss), log_ratios.chunk(self.sides), strict=True):
                tensors[f"{CLIPPED}{side}_logps"] = tensors[f"ref_{side}_logps"] + ratio
        tensors |= {name: batch[name] for name in self.loss.inputs if name in VALUES}
        return tensors, fields

    def has_reference(self, values: dict[str, Any]) -> bool:
        return self.precomputed and "ref_chosen_logps" in values

    def reference_logps(
        self, batch: dict[str, torch.Tensor], states: list[States] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reference log-probabilities of the chosen and of the rejected completions, (B,) each.

        Args:
            batch: A collated row.
            states: Those of the reference are added to it, for which it runs on this row.
        """
        if states is not None:
            reference = self.references.run(batch, states)
            chosen, rejected, *_ = self.sum_logps(reference.only(batch.get("learned"))).chunk(self.sides)
            return chosen, rejected
        if self.has_reference(batch):
            return batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        reference = self.references.score(batch).only(batch.get("learned"))
        chosen, rejected, *_ = self.sum_logps(reference).chunk(self.sides)
        return chosen, rejected

    def sum_logps(self, fields: Completions) -> torch.Tensor:
        """Log-probabilities summed over each completion, (2B,), with gold completions (3B,)."""
        return self.summed(fields.per_token_logps, fields)

    def summed(self, values: torch.Tensor, fields: Completions) -> torch.Tensor:
        """Values of tokens (2B, W) or (3B, W) summed over each completion, weighted by `ld_alpha` if it is set.

        LD-DPO (arXiv:2409.06411, Eq. 9): tokens beyond the length of the pair's shorter completion have weight α.
        """
        if self.ld_alpha is None:
            return values.sum(dim=1)
        chosen_lens, rejected_lens, *gold_lens = fields.lens.chunk(self.sides)
        shared = torch.cat([torch.minimum(chosen_lens, rejected_lens).repeat(2), *gold_lens]).unsqueeze(1)
        position = fields.mask.cumsum(dim=1)
        weight = torch.where(position <= shared, 1.0, self.ld_alpha) * fields.mask
        return (values * weight).sum(dim=1)

    def weighted(self, losses: torch.Tensor, fields: Completions) -> torch.Tensor:
        """Losses (B,), weighted as in WPO (arXiv:2406.11827, Eq. 2) if `use_weighting` is set.

        The weight of a pair is the product of the length-normalised probabilities of its two completions. Each token's
        probability is divided by the policy's confidence Σ_v π(v)². The weights carry no gradient.
        """
        if not self.use_weighting:
            return losses
        with torch.no_grad():
            aligned = (fields.per_token_logps - fields.log_sum_sq_probs) * fields.mask
            chosen, rejected, *_ = (aligned.sum(dim=1) / fields.lens.clamp(min=1)).exp().chunk(self.sides)
        return losses * chosen * rejected

    # Metrics, with the names and definitions of trl.DPOTrainer --------------------------------------------------------

    def record(self, sums: MeanMetrics, batch: dict, tensors: dict, fields: Completions, output: Any) -> None:
        count = len(output.losses)
        chosen_tokens, rejected_tokens, *_ = fields.mask.chunk(self.sides)
        sums.add("num_tokens", num_tokens(batch), 1)
        # Fields are zero at tokens that are not scored.
        sums.add("entropy", fields.entropy.sum(), fields.mask.sum())
        chosen_logits, rejected_logits, *_ = fields.mean_logits.chunk(self.sides)
        sums.add("logits/chosen", chosen_logits.sum(), chosen_tokens.sum())
        sums.add("logits/rejected", rejected_logits.sum(), rejected_tokens.sum())
        chosen_is_top1 = fields.is_top1.chunk(self.sides)[0]
        sums.add("mean_token_accuracy", chosen_is_top1.sum(), chosen_tokens.sum())
        margins = output.chosen_rewards - output.rejected_rewards
        sums.add("rewards/chosen", output.chosen_rewards.sum(), count)
        sums.add("rewards/rejected", output.rejected_rewards.sum(), count)
        sums.add("rewards/accuracies", (margins > 0).sum(), count)
        sums.add("rewards/margins", margins.sum(), count)
        if CLIPPED_TOKENS in tensors:
            sums.add("humanline/clipped", tensors[CLIPPED_TOKENS].sum(), fields.mask.sum())
        for side in sides_of(self.loss):
            logps, lens = tensors[f"{side}_logps"], tensors[f"{side}_lens"]
            sums.add(f"logps/{side}", logps.sum(), count)
            sums.add(f"logps_per_token/{side}", logps.sum(), lens.sum())
            if (reference := tensors.get(f"ref_{side}_logps")) is not None:
                ratio = logps - reference
                sums.add(f"log_ratio/{side}", ratio.sum(), count)
                sums.add(APART, (ratio.abs() / lens).sum(), count)
            if (kl := tensors.get(f"{side}_kl")) is not None:
                sums.add(f"kl/{side}", kl.sum(), count)
        if fields.aux_loss is not None:
            sums.add("aux_loss", fields.aux_loss * count, count)


class PairedPreferenceTrainer(FiniteSteps, StagedCheckpoint, PreferenceTrainer, DPOTrainer):
    """Preference optimisation from pairs, constructed exactly like `trl.DPOTrainer`.

    Overrides `_precompute_ref_logps` of `trl.DPOTrainer`, and through the mixins the methods named there.
    Attributes of the parent read, besides those `PreferenceTrainer` names: `ld_alpha`, `use_weighting`.
    """

    _name = "Paired preference optimisation"
    _tag_names = ["trl", "trl-ext"]  # noqa: RUF012
    _trl_tag = "dpo"
    _config_class = PairedPreferenceConfig
    _trl_loss_type = ["sigmoid"]  # noqa: RUF012

    @property
    def _columns(self) -> tuple[str, ...]:
        return ("ref_chosen_logps", "ref_rejected_logps", *(name for name in self.loss.columns if name in VALUES))

    @property
    def _completions(self) -> tuple[str, ...]:
        return tuple(f"{side}_ids" for side in sides_of(self.loss))

    def _make_objective(self) -> PairedObjective:
        return PairedObjective(
            self.loss,
            self.references,
            self.reference_rows,
            precomputed=self.precompute_ref_logps,
            router_aux_loss_coef=self.router_aux_loss_coef if self.aux_loss_enabled else None,
            adjust=self.example_losses,
            ld_alpha=self.ld_alpha,
            use_weighting=self.use_weighting,
            clip=humanline.of(self.args),
        )

    def _settle_loss(self) -> None:
        self.loss_types = list(self.args.loss_type)
        self.loss_weights = self.args.loss_weights or [1.0] * len(self.loss_types)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Key TRL's cache by truncation and `ld_alpha` as well, since they change the values."""
        if isinstance(dataset, Dataset):
            dataset = keyed(dataset, self.args.max_length, self.args.truncation_mode, self.args.ld_alpha)
        return super()._precompute_ref_logps(dataset, name, batch_size)
