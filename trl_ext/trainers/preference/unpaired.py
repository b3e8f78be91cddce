"""Train any unpaired loss with TRL's KTO trainer.

Differences from `trl.KTOTrainer` (1.16):

1. The loss is one of `trl_ext.losses`, chosen by name. TRL's own loss code never runs. TRL's constructor is given the
   loss without a baseline, so its checks of batch size and sampler do not apply, and it adds no mismatched pairs to the
   dataset.
2. The KTO baseline is estimated from mismatched pairs of the optimizer step itself, over all examples on all processes,
   before the losses of the step are computed (`trl_ext.trainers.preference.baseline`). Images are paired within
   micro-batches by TRL's collator. Pairs whose reference values are precomputed without an adapter are drawn once from the
   whole dataset (`trl_ext.trainers.preference.fixed_pairs`).
3. Every epoch is shuffled so that each step contains both classes (`trl_ext.trainers.preference.class_balance`).
4. Class weights may be "auto".
5. Steps, adapter dtype and the check of the first step are those of `trl_ext.trainers.preference.paired`.
"""

from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import Sampler
from trl import KTOTrainer

from trl_ext import losses
from trl_ext.support.counts import count
from trl_ext.trainers.common import forward, lora
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.forward import Completions, num_tokens
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.common.step_zero import APART
from trl_ext.trainers.preference import construction, humanline
from trl_ext.trainers.preference.baseline import Baseline
from trl_ext.trainers.preference.class_balance import (
    CLASS_WEIGHTS,
    ClassMixedSampler,
    balanced,
    counts_of,
    has_auto_weights,
)
from trl_ext.trainers.preference.config import UnpairedPreferenceConfig, shared_value
from trl_ext.trainers.preference.fixed_pairs import add_pairs, keyed
from trl_ext.trainers.preference.objective import CLIPPED, CLIPPED_TOKENS, Objective
from trl_ext.trainers.preference.trainer import PreferenceTrainer


class UnpairedObjective(Objective):
    """Score rows of labelled completions under policy and reference, and evaluate an unpaired loss on them.

    Args:
        baseline: Estimates the KTO baseline for losses that read it.
        args, kwargs: For `Objective`.
    """

    def __init__(self, *args: Any, baseline: Baseline, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.baseline = baseline

    @property
    def needs_baseline(self) -> bool:
        """Whether the loss reads the KTO baseline."""
        return needs_baseline(self.loss)

    @property
    def scores_reference_apart(self) -> bool:
        """With a baseline it does: the reference scores matched and mismatched completions of a prompt together."""
        return self.needs_baseline

    def step_tensors(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        return {"z_ref": self.baseline.estimate(examples)} if self.needs_baseline else {}

    def share(self, batches: list[dict]) -> None:
        if self.needs_baseline:
            if any(f"{forward.MISMATCHED}input_ids" not in batch for batch in batches):
                raise ValueError(
                    f"The loss {self.loss.name!r} reads a baseline, and this collated batch has no mismatched pairs to estimate "
                    "it from. Give the examples as the trainer's dataloader returns them."
                )
            z_ref = self.baseline.estimate_collated(batches)
            for batch in batches:
                batch["z_ref"] = z_ref

    def score(self, model: nn.Module, batch: dict) -> tuple[dict[str, torch.Tensor], Completions]:
        tensors = {"desirable": batch["label"].bool()}
        learned = batch.get("learned")
        reference = self.references.score(batch).only(learned) if self.clip is not None else None
        if reference is not None:
            tensors["ref_logps"] = reference.per_token_logps.sum(dim=1)
        elif self.loss.needs_reference:
            tensors["ref_logps"] = self.reference_logps(batch)
        if "z_ref" in batch:
            tensors["z_ref"] = batch["z_ref"]
        fields = forward.run(model, batch, router_logits=self.router_aux_loss_coef is not None).only(learned)
        tensors["logps"] = fields.per_token_logps.sum(dim=1)
        if reference is not None:
            log_ratios, tensors[CLIPPED_TOKENS] = self.clip.log_ratios(fields, reference)
            tensors[f"{CLIPPED}logps"] = tensors["ref_logps"] + log_ratios
        return tensors, fields

    def has_reference(self, values: dict[str, Any]) -> bool:
        # In a column of the data, or from the estimate of the baseline, which a humanline variant makes of single tokens.
        return self.clip is None and "ref_logps" in values and (self.precomputed or self.needs_baseline)

    def reference_logps(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Reference log-probabilities of the completions, (B,)."""
        if self.has_reference(batch):
            return batch["ref_logps"]
        return self.references.score(batch).only(batch.get("learned")).per_token_logps.sum(dim=1)

    # Metrics, with the names and definitions of trl.KTOTrainer --------------------------------------------------------

    def record(self, sums: MeanMetrics, batch: dict, tensors: dict, fields: Completions, output: Any) -> None:
        sums.add("num_tokens", num_tokens(batch), 1)
        # Fields are zero at tokens that are not scored.
        sums.add("entropy", fields.entropy.sum(), fields.mask.sum())
        if CLIPPED_TOKENS in tensors:
            sums.add("humanline/clipped", tensors[CLIPPED_TOKENS].sum(), fields.mask.sum())
        if "z_ref" in tensors:
            sums.add("kl", tensors["z_ref"] * len(output.losses), len(output.losses))
        for name, members in (("chosen", tensors["desirable"]), ("rejected", ~tensors["desirable"])):
            count, tokens = members.sum(), fields.lens.where(members, 0).sum()
            logps = tensors["logps"].where(members, 0.0).sum()
            sums.add(f"logits/{name}", fields.mean_logits.sum(dim=1).where(members, 0.0).sum(), tokens)
            sums.add(f"rewards/{name}", output.rewards.where(members, 0.0).sum(), count)
            sums.add(f"logps/{name}", logps, count)
            sums.add(f"logps_per_token/{name}", logps, tokens)
            if "ref_logps" in tensors:
                ratio = tensors["logps"] - tensors["ref_logps"]
                sums.add(f"log_ratio/{name}", ratio.where(members, 0.0).sum(), count)
                sums.add(APART, (ratio.abs() / fields.lens).where(members, 0.0).sum(), count)
        if fields.aux_loss is not None:
            sums.add("aux_loss", fields.aux_loss * len(output.losses), len(output.losses))

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        if "rewards/chosen" in means and "rewards/rejected" in means:
            return {"rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}
        return {}


class UnpairedPreferenceTrainer(FiniteSteps, StagedCheckpoint, PreferenceTrainer, KTOTrainer):
    """Preference optimisation from desirable and undesirable completions, constructed like `trl.KTOTrainer`.

    Overrides `_get_train_sampler`, `_precompute_ref_logps` and `_run_epoch` of `trl.KTOTrainer`, and through the mixins the
    methods named there.
    Attributes of the parent read: those `PreferenceTrainer` names.
    """

    _name = "Unpaired preference optimisation"
    _tag_names = ["trl", "trl-ext"]  # noqa: RUF012
    _trl_tag = "kto"
    _config_class = UnpairedPreferenceConfig
    _trl_loss_type = "apo_zero_unpaired"  # with it, TRL adds no mismatched pairs to the dataset
    _completions = ("completion_ids",)
    _columns = ("label", "ref_logps")
    _sampler: ClassMixedSampler | None = None

    def _make_objective(self) -> UnpairedObjective:
        precomputed, clip = self.precompute_ref_logps, humanline.of(self.args)
        return UnpairedObjective(
            self.loss,
            self.references,
            self.reference_rows,
            precomputed=precomputed,
            router_aux_loss_coef=self.router_aux_loss_coef if self.aux_loss_enabled else None,
            adjust=self.example_losses,
            baseline=Baseline(
                self.runtime,
                self.rows,
                self.references,
                self.reference_rows,
                precomputed=precomputed,
                has_fixed_pairs=self._has_fixed_pairs(),
                clip=clip,
            ),
            clip=clip,
        )

    def _reads_live_reference(self) -> bool:
        # Mismatched pairs of a step are in no column.
        return super()._reads_live_reference() or (needs_baseline(self.loss) and not self._has_fixed_pairs())

    def _has_fixed_pairs(self) -> bool:
        """Whether precomputed values include those of mismatched pairs, because no reference is kept in memory."""
        return needs_baseline(self.loss) and self.ref_model is None and not lora.has_adapter(self.model)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Key TRL's cache by truncation as well, and let it score mismatched pairs where they have to be fixed."""
        if isinstance(dataset, Dataset):
            dataset = keyed(dataset, self.args.max_length)
            if self._has_fixed_pairs():
                dataset, self.calculate_KL = add_pairs(dataset), True
        try:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        finally:
            self.calculate_KL = False

    def _told_to_trl(self, args: Any, has_adapter: bool, train_dataset: Any) -> dict[str, Any]:
        told = dict.fromkeys(CLASS_WEIGHTS, 1.0)  # TRL only reads them to compare class counts
        if needs_baseline(self.loss) and construction.has_images(train_dataset):
            # Its collator then adds mismatched pairs. They are of one micro-batch, in any order of the data.
            told |= {"loss_type": "kto", "train_sampling_strategy": "sequential"}
        return super()._told_to_trl(args, has_adapter, train_dataset) | told

    def _settle_loss(self) -> None:
        self._count_classes()
        self.loss_type = self.args.loss_type
        self.desirable_weight, self.undesirable_weight = (getattr(self.args, name) for name in CLASS_WEIGHTS)

    def _count_classes(self) -> None:
        """Turn class weights "auto" into numbers, in the loss and in the configuration."""
        config, is_mix = self.args, isinstance(self.args.loss, dict)
        parts = self.loss.hyperparameters if is_mix else {self.loss.name: self.loss.hyperparameters}
        if not has_auto_weights(parts):
            return
        counts = counts_of(self.train_dataset)
        settled = {part: {**values, **balanced(values, counts)} for part, values in parts.items()}
        kwargs = settled if is_mix else settled[self.loss.name]
        self.loss = losses.get(config.loss, **kwargs)
        config.loss_kwargs = dict(self.loss.hyperparameters)
        for name in CLASS_WEIGHTS:
            setattr(config, name, shared_value(self.loss, name))
        for part, values in settled.items():
            shown = ", ".join(
                f"{name} {values[name]:.4g} ({count(counts[name], 'examples')})" for name in CLASS_WEIGHTS
            )
            say(self.accelerator, f"class weights of {part} from the data: {shown}")

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "random" or not isinstance(dataset, Dataset):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._sampler = ClassMixedSampler(dataset["label"], seed)
        return self._sampler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        # On several processes accelerate does not hand the epoch to a sampler whose first batches are skipped after a
        # resume (`tests/trainers/preference/test_unpaired.py`).
        if self._sampler is not None:
            self._sampler.set_epoch(kwargs["epoch"])
        return super()._run_epoch(*args, **kwargs)


def needs_baseline(loss: Any) -> bool:
    """Whether a loss reads the KTO baseline."""
    return "z_ref" in loss.inputs
