"""Every paired loss on TRL's DPO trainer.

How it departs from `trl.DPOTrainer` (1.16):

1. the loss is one of `trl_ext.losses`, by name; TRL's own loss code never runs;
2. a loss that reads no reference value costs no reference forward, and without PEFT no second model;
3. an optimizer step is one batch, cut into rows by memory alone (`trl_ext.trainers.preference.step`);
4. adapter weights are float32 (`trl_ext.trainers.common.lora`);
5. the first step's loss is compared with the known value (`trl_ext.trainers.common.step_zero`);
6. precomputed reference values are keyed by everything they depend on.
"""

from typing import Any

import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from torch import nn
from trl import DPOTrainer

from trl_ext.batching.packed import Tree, pack_joined
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.common.step_zero import APART
from trl_ext.trainers.preference import forward
from trl_ext.trainers.preference.config import PairedPreferenceConfig
from trl_ext.trainers.preference.construction import Construction
from trl_ext.trainers.preference.evaluation import Evaluation
from trl_ext.trainers.preference.forward import Completions, num_tokens
from trl_ext.trainers.preference.run_directory import RunDirectory


class PairedPreferenceTrainer(FiniteSteps, StagedCheckpoint, RunDirectory, Evaluation, Construction, DPOTrainer):
    """Preference optimisation from pairs, constructed exactly like `trl.DPOTrainer`.

    Overrides `_precompute_ref_logps` of `trl.DPOTrainer`, and through the mixins the methods named there.
    Attributes of the parent read: `ld_alpha`, `use_weighting`, `ref_model`,
    `precompute_ref_logps`, `aux_loss_enabled`, `router_aux_loss_coef`, `_metrics`, `_total_train_tokens`,
    `_is_vision_dataset`, `maybe_activation_offload_context`.
    """

    _name = "Paired preference optimisation"
    _tag_names = ["trl", "trl-ext"]  # noqa: RUF012
    _config_class = PairedPreferenceConfig
    _sequences_per_example = 2
    _trl_loss_type = ["sigmoid"]  # noqa: RUF012

    # One row --------------------------------------------------------------------------------------------------

    def _length(self, example: dict) -> int:
        longest = len(example["prompt_ids"]) + max(len(example["chosen_ids"]), len(example["rejected_ids"]))
        return longest if self.args.max_length is None else min(longest, self.args.max_length)

    def _tree(self, example: dict) -> Tree:
        return self._truncated(example["prompt_ids"], example["chosen_ids"], example["rejected_ids"])

    def _proof_tree(self, example: dict, examples: list[dict]) -> Tree:
        return self._tree(example)

    def _sequences(self, row: list[dict]) -> list[tuple[list[int], list[int]]]:
        trees = [self._tree(example) for example in row]
        return [(tree.prompt, tree.completions[side]) for side in (0, 1) for tree in trees]

    def _pack(self, row: list[dict]) -> dict[str, Any]:
        trees = [self._tree(example) for example in row]
        # chosen, rejected, chosen, … become all chosen, then all rejected, as in TRL's collator
        order = [2 * i + side for side in (0, 1) for i in range(len(row))]
        device = self.args.device
        batch: dict[str, Any] = {"packed": pack_joined(trees, order).to(device)}
        batch["num_tokens"] = sum(len(tree.prompt) + len(c) for tree in trees for c in tree.completions)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in row[0]:
                batch[name] = torch.tensor([example[name] for example in row], device=device)
        return batch

    def _score(self, model: nn.Module, batch: dict) -> tuple[dict[str, torch.Tensor], Completions]:
        tensors = {}
        if self.loss.needs_reference:
            # Before the policy's forward, while no activations are held.
            tensors["ref_chosen_logps"], tensors["ref_rejected_logps"] = self._reference_logps(batch)
        fields = forward.run(model, batch, router_logits=self.aux_loss_enabled)
        tensors["chosen_logps"], tensors["rejected_logps"] = self._sum_logps(fields).chunk(2)
        tensors["chosen_lens"], tensors["rejected_lens"] = fields.lens.chunk(2)
        return tensors, fields

    def _reference_logps(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self.precompute_ref_logps:
            return batch["ref_chosen_logps"], batch["ref_rejected_logps"]
        return self._sum_logps(self._reference_fields(batch)).chunk(2)

    def _sum_logps(self, fields: Completions) -> torch.Tensor:
        """Log-probabilities summed over the completion, (2B,), the verbose tail damped by `ld_alpha` if set.

        LD-DPO (arXiv:2409.06411, Eq. 9): tokens beyond the shorter completion of a pair count α times.
        """
        if self.ld_alpha is None:
            return fields.per_token_logps.sum(dim=1)
        chosen_lens, rejected_lens = fields.lens.chunk(2)
        shared = torch.minimum(chosen_lens, rejected_lens).repeat(2).unsqueeze(1)
        position = fields.mask.cumsum(dim=1)
        weight = torch.where(position <= shared, 1.0, self.ld_alpha) * fields.mask
        return (fields.per_token_logps * weight).sum(dim=1)

    def _weighted(self, losses: torch.Tensor, fields: Completions) -> torch.Tensor:
        """Losses weighted as in WPO (arXiv:2406.11827, Eq. 2) if `use_weighting` is set.

        A pair weighs the product of both completions' length-normalised probabilities, each token's taken
        relative to the policy's own confidence Σ_v π(v)². No gradient flows through the weights.
        """
        if not self.use_weighting:
            return losses
        with torch.no_grad():
            aligned = (fields.per_token_logps - fields.log_sum_sq_probs) * fields.mask
            chosen, rejected = (aligned.sum(dim=1) / fields.lens.clamp(min=1)).exp().chunk(2)
        return losses * chosen * rejected

    # Metrics: the names and definitions of trl.DPOTrainer --------------------------------------------------------

    def _record(self, sums: MeanMetrics, batch: dict, tensors: dict, fields: Completions, output: Any) -> None:
        count = len(output.losses)
        mask = fields.mask.bool()
        chosen_mask, rejected_mask = mask.chunk(2)
        sums.add("num_tokens", num_tokens(batch), 1)
        sums.add("entropy", fields.entropy[mask].sum(), mask.sum())
        chosen_logits, rejected_logits = fields.mean_logits.chunk(2)
        sums.add("logits/chosen", chosen_logits[chosen_mask].sum(), chosen_mask.sum())
        sums.add("logits/rejected", rejected_logits[rejected_mask].sum(), rejected_mask.sum())
        chosen_is_top1 = fields.is_top1.chunk(2)[0]
        sums.add("mean_token_accuracy", chosen_is_top1[chosen_mask].sum(), chosen_mask.sum())
        margins = output.chosen_rewards - output.rejected_rewards
        sums.add("rewards/chosen", output.chosen_rewards.sum(), count)
        sums.add("rewards/rejected", output.rejected_rewards.sum(), count)
        sums.add("rewards/accuracies", (margins > 0).sum(), count)
        sums.add("rewards/margins", margins.sum(), count)
        sums.add("logps/chosen", tensors["chosen_logps"].sum(), count)
        sums.add("logps/rejected", tensors["rejected_logps"].sum(), count)
        for side in ("chosen", "rejected"):
            logps, lens = tensors[f"{side}_logps"], tensors[f"{side}_lens"]
            sums.add(f"logps_per_token/{side}", logps.sum(), lens.sum())
            if (reference := tensors.get(f"ref_{side}_logps")) is not None:
                ratio = logps - reference
                sums.add(f"log_ratio/{side}", ratio.sum(), count)
                sums.add(APART, (ratio.abs() / lens).sum(), count)
        if fields.aux_loss is not None:
            sums.add("aux_loss", fields.aux_loss * count, count)

    # Reference values on disk ----------------------------------------------------------------------------------

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """TRL's cache, keyed by truncation and `ld_alpha` too, which change the values it holds.

        It relies on TRL naming its file by the dataset's fingerprint (`tests/trainers/preference/test_evaluation.py`).
        """
        if isinstance(dataset, Dataset):
            dataset = dataset.select(range(len(dataset)))  # a view with a fingerprint of its own
            settings = (self.args.max_length, self.args.truncation_mode, self.args.ld_alpha)
            dataset._fingerprint = Hasher.hash((dataset._fingerprint, settings))
        return super()._precompute_ref_logps(dataset, name, batch_size)
