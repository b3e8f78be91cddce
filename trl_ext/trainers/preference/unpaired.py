"""Every unpaired loss on TRL's KTO trainer.

How it departs from `trl.KTOTrainer` (1.16):

1. the loss is one of `trl_ext.losses`, by name; TRL's own loss code never runs. TRL's trainer is built with the
   loss that needs no baseline, so its batch-size and sampler checks and its baked-in mismatched pairs do not apply;
2. the KTO baseline is estimated from mismatched pairs of the optimizer step itself, over all of its examples on
   all processes, before any loss of the step is formed (`trl_ext.batching.mismatched`);
3. every epoch is shuffled so that each step holds both classes (`trl_ext.trainers.preference.sampler`);
4. class weights may be "auto";
5. steps, adapter dtype and the first step's check are those of `trl_ext.trainers.preference.paired`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from torch.utils.data import Sampler
from trl import KTOTrainer

from trl_ext import losses
from trl_ext.batching.mismatched import mismatched
from trl_ext.batching.packed import Tree, pack_joined
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.common import lora
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.nonfinite import FiniteSteps
from trl_ext.trainers.common.staged_checkpoint import StagedCheckpoint
from trl_ext.trainers.common.step_zero import APART
from trl_ext.trainers.preference import forward
from trl_ext.trainers.preference.config import UnpairedPreferenceConfig
from trl_ext.trainers.preference.construction import Construction, has_images
from trl_ext.trainers.preference.evaluation import Evaluation
from trl_ext.trainers.preference.forward import Completions, num_tokens
from trl_ext.trainers.preference.run_directory import RunDirectory
from trl_ext.trainers.preference.sampler import ClassMixedSampler

CLASS_WEIGHTS = ("desirable_weight", "undesirable_weight")


class UnpairedPreferenceTrainer(FiniteSteps, StagedCheckpoint, RunDirectory, Evaluation, Construction, KTOTrainer):
    """Preference optimisation from desirable and undesirable completions, constructed like `trl.KTOTrainer`.

    Overrides `_get_train_sampler` and `_run_epoch` of `trl.KTOTrainer`, and through the mixins the methods named there.
    Attributes of the parent read: `ref_model`, `precompute_ref_logps`, `aux_loss_enabled`,
    `router_aux_loss_coef`, `_metrics`, `_total_train_tokens`, `_is_vision_dataset`,
    `maybe_activation_offload_context`.
    """

    _name = "Unpaired preference optimisation"
    _tag_names = ["trl", "trl-ext"]  # noqa: RUF012
    _config_class = UnpairedPreferenceConfig
    _sampler: ClassMixedSampler | None = None
    _sequences_per_example = 1
    _warned_about_baseline = False
    _trl_loss_type = "apo_zero_unpaired"  # the one that bakes no mismatched pairs into the dataset

    @contextlib.contextmanager
    def _around_construction(self, model: Any, args: Any, given: dict[str, Any]) -> Iterator[None]:
        has_adapter = given.get("peft_config") is not None or lora.has_adapter(model)
        if self._needs_baseline and has_images(given["train_dataset"]):
            raise ValueError(
                f"The loss {self.loss.name!r} pairs completions with other examples' prompts, which images do not "
                "allow here: use loss: apo_zero_unpaired, or a paired loss, for vision data."
            )
        if self._needs_baseline and args.precompute_ref_log_probs and not has_adapter:
            raise ValueError(
                f"The loss {self.loss.name!r} needs a live reference for its baseline, and without an adapter there is "
                "none once its values are precomputed: remove `precompute_ref_log_probs`, or train an adapter."
            )
        weights = {name: getattr(args, name) for name in CLASS_WEIGHTS}
        for name in CLASS_WEIGHTS:
            setattr(args, name, 1.0)  # TRL only reads them to compare class counts
        try:
            with super()._around_construction(model, args, given):
                yield
        finally:
            for name, value in weights.items():
                setattr(args, name, value)
        self._settle_class_weights(args)

    @property
    def _reads_live_reference(self) -> bool:
        return super()._reads_live_reference or self._needs_baseline  # its mismatched pairs are in no column

    @property
    def _needs_baseline(self) -> bool:
        return "z_ref" in self.loss.inputs

    def _settle_class_weights(self, config: UnpairedPreferenceConfig) -> None:
        """Turn "auto" into numbers with λ_D·n_D = λ_U·n_U; where both are automatic, the commoner class weighs 1."""
        is_mix = isinstance(config.loss, dict)
        parts = self.loss.hyperparameters if is_mix else {self.loss.name: self.loss.hyperparameters}
        if not any(values.get(name) == "auto" for values in parts.values() for name in CLASS_WEIGHTS):
            return
        if not isinstance(self.train_dataset, Dataset):
            raise ValueError("Class weights 'auto' need the label counts, which a streamed dataset does not have.")
        labels = self.train_dataset["label"]
        desirable = sum(map(bool, labels))
        counts = dict(zip(CLASS_WEIGHTS, (desirable, len(labels) - desirable), strict=True))
        if not all(counts.values()):
            raise ValueError(
                f"Class weights 'auto' need both classes; the training data has {desirable} desirable and "
                f"{len(labels) - desirable} undesirable examples."
            )
        settled = {part: {**values, **_balanced(values, counts)} for part, values in parts.items()}
        kwargs = settled if is_mix else settled[self.loss.name]
        self.loss = losses.get(config.loss, **kwargs)
        config.loss_kwargs = dict(self.loss.hyperparameters)
        for name in CLASS_WEIGHTS:
            setattr(config, name, config.loss_kwargs.get(name))
        for part, values in settled.items():
            shown = ", ".join(f"{name} {values[name]:.4g} ({counts[name]} examples)" for name in CLASS_WEIGHTS)
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

    # One row --------------------------------------------------------------------------------------------------

    def _length(self, example: dict) -> int:
        length = len(example["prompt_ids"]) + len(example["completion_ids"])
        return length if self.args.max_length is None else min(length, self.args.max_length)

    def _tree(self, example: dict) -> Tree:
        return self._truncated(example["prompt_ids"], example["completion_ids"])

    def _proof_tree(self, example: dict, examples: list[dict]) -> Tree:
        # a second completion, so that a leak between branches would show
        other = next((e for e in examples if e["completion_ids"] != example["completion_ids"]), example)
        return self._truncated(example["prompt_ids"], example["completion_ids"], other["completion_ids"])

    def _sequences(self, row: list[dict]) -> list[tuple[list[int], list[int]]]:
        trees = [self._tree(example) for example in row]
        return [(tree.prompt, tree.completions[0]) for tree in trees]

    def _pack(self, row: list[dict]) -> dict[str, Any]:
        trees = [self._tree(example) for example in row]
        device = self.args.device
        batch: dict[str, Any] = {"packed": pack_joined(trees).to(device)}
        batch["num_tokens"] = sum(len(tree.prompt) + len(c) for tree in trees for c in tree.completions)
        batch["label"] = torch.tensor([example["label"] for example in row], device=device)
        if "ref_logps" in row[0]:
            batch["ref_logps"] = torch.tensor([example["ref_logps"] for example in row], device=device)
        return batch

    def _score(self, model: nn.Module, batch: dict) -> tuple[dict[str, torch.Tensor], Completions]:
        tensors = {"desirable": batch["label"].bool()}
        if self.loss.needs_reference:
            tensors["ref_logps"] = self._reference_logps(batch)
        fields = forward.run(model, batch, router_logits=self.aux_loss_enabled)
        tensors["logps"] = fields.per_token_logps.sum(dim=1)
        return tensors, fields

    def _reference_logps(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if "ref_logps" in batch and (self.precompute_ref_logps or self._needs_baseline):
            return batch["ref_logps"]  # a column of the data, or known since the baseline was estimated
        return self._reference_fields(batch).per_token_logps.sum(dim=1)

    def _reference_ran_otherwise(self) -> bool:
        return self._needs_baseline or super()._reference_ran_otherwise()

    # The baseline ---------------------------------------------------------------------------------------------

    def _mismatched(self, examples: list[dict]) -> list[dict]:
        """Mismatched pairs (x_i, y_j) of a step; every process gets the same list."""
        return mismatched(examples)

    def _step_tensors(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """The KTO baseline z = max(0, mean of log π/π_ref over the step's mismatched pairs), without gradient.

        KTO (arXiv:2402.01306, Eq. 7); clamped after the mean over all processes. Gives each of `examples` its
        `ref_logps` on the way.
        """
        if not self._needs_baseline:
            return {}
        process = self.accelerator.process_index
        own = [_sequence(example) | {"process": process} for example in examples]
        pairs = self._mismatched(gather_object(own) if self.accelerator.num_processes > 1 else own)
        # Each process takes the pairs of its own prompts, which its own completions continue as well.
        mine = [pair for pair in pairs if pair["process"] == process]
        log_ratio = self.accelerator.reduce(self._locally(lambda: self._log_ratio(mine, examples)), reduction="sum")
        if not pairs and not self._warned_about_baseline:
            self._warned_about_baseline = True
            say(
                self.accelerator,
                "KTO baseline: a step held a single prompt, so no mismatched pair exists and z is 0 there; use more "
                "examples per step (per_device_train_batch_size × gradient_accumulation_steps).",
            )
        z = (log_ratio / max(len(pairs), 1)).clamp(min=0).float()
        return {"z_ref": z}

    def _log_ratio(self, pairs: list[dict], examples: list[dict]) -> torch.Tensor:
        """Σ log π/π_ref over the completions of `pairs`, a scalar, without gradient.

        The reference reads matched and mismatched completions of a prompt in one pass, where they share it. The
        policy does not: no loss can be formed before z is known, so that pass would have to hold the whole step in one
        row, keep the mismatched completions for its backward pass, and show them dropout.
        """
        own = [] if self.precompute_ref_logps else examples
        sequences = [_sequence(example) for example in (*pairs, *own)]
        reference = self._reference_sums(sequences)
        for example, logps in zip(own, reference[len(pairs) :], strict=True):
            example["ref_logps"] = logps
        total = torch.tensor(-sum(reference[: len(pairs)]), dtype=torch.float64, device=self.args.device)
        with no_grad_eval(self.model), self.compute_loss_context_manager():
            for row in self._rows(sequences[: len(pairs)]):
                total += forward.run(self.model, self._collate(row)).per_token_logps.sum()
        return total

    def _reference_sums(self, sequences: list[dict]) -> list[float]:
        """Reference log-probability of every completion."""
        sums: dict[int, float] = {}
        for row in self._rows([{**sequence, "number": i} for i, sequence in enumerate(sequences)]):
            with self.compute_loss_context_manager():
                fields = self._reference_fields(self._collate(row))
            sums.update(
                zip((sequence["number"] for sequence in row), fields.per_token_logps.sum(dim=1).tolist(), strict=True)
            )
        return [sums[i] for i in range(len(sequences))]

    # Metrics: the names and definitions of trl.KTOTrainer --------------------------------------------------------

    def _record(self, sums: MeanMetrics, batch: dict, tensors: dict, fields: Completions, output: Any) -> None:
        mask = fields.mask.bool()
        sums.add("num_tokens", num_tokens(batch), 1)
        sums.add("entropy", fields.entropy[mask].sum(), mask.sum())
        if "z_ref" in tensors:
            sums.add("kl", tensors["z_ref"] * len(output.losses), len(output.losses))
        for name, members in (("chosen", tensors["desirable"]), ("rejected", ~tensors["desirable"])):
            tokens = mask & members.unsqueeze(1)
            sums.add(f"logits/{name}", fields.mean_logits[tokens].sum(), tokens.sum())
            sums.add(f"rewards/{name}", output.rewards[members].sum(), members.sum())
            sums.add(f"logps/{name}", tensors["logps"][members].sum(), members.sum())
            sums.add(f"logps_per_token/{name}", tensors["logps"][members].sum(), tokens.sum())
            if "ref_logps" in tensors:
                ratio = (tensors["logps"] - tensors["ref_logps"])[members]
                sums.add(f"log_ratio/{name}", ratio.sum(), members.sum())
                sums.add(APART, (ratio.abs() / fields.lens[members]).sum(), members.sum())
        if fields.aux_loss is not None:
            sums.add("aux_loss", fields.aux_loss * len(output.losses), len(output.losses))

    def _keep(self, sums: MeanMetrics, means: dict[str, float], mode: str) -> None:
        if "rewards/chosen" in means and "rewards/rejected" in means:
            means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
        super()._keep(sums, means, mode)


def _sequence(example: dict) -> dict:
    return {"prompt_ids": example["prompt_ids"], "completion_ids": example["completion_ids"], "label": False}


def _balanced(values: dict[str, Any], counts: dict[str, int]) -> dict[str, float]:
    """Numbers for the weights that are "auto": the weight of a class times its examples equals that of the other."""
    fixed = [values[name] * counts[name] for name in CLASS_WEIGHTS if values[name] != "auto"]
    mass = fixed[0] if fixed else max(counts.values())
    return {name: mass / counts[name] for name in CLASS_WEIGHTS if values[name] == "auto"}
