"""Train a TRL preference trainer with one batch per optimizer step: what is overridden of TRL and transformers.

How it departs from transformers' loop and TRL's constructor:

1. settings that cannot work are refused before anything is loaded (`trl_ext.trainers.preference.construction`);
2. no second model is loaded for a loss that reads no reference, and the reference of an adapter may move, which TRL
   refuses (`trl_ext.trainers.preference.reference_sync`);
3. the adapter of a quantised model keeps its dtype (`trl_ext.trainers.common.lora`), and bitsandbytes does not repack the
   4-bit base (`trl_ext.support.frozen_base`);
4. data that is tokenised already (`trl_ext.inspection`) is taken as it is;
5. the dataloaders hand over examples instead of collated tensors, and the examples of a step as one batch, with empty ones
   in place of the other micro-batches, so that step counts, schedules, epochs and resuming stay what they were;
6. `trl_ext.trainers.preference.step` runs that batch, and `trl_ext.trainers.preference.evaluation` those of an evaluation.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from trl_ext import losses
from trl_ext.batching.padded import Examples
from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.reference.moving import add_reference
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import lora, step_zero
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.model_card import ModelCard, card_of_loss
from trl_ext.trainers.preference import construction, packing, reference_sync, run_directory
from trl_ext.trainers.preference.evaluation import Evaluation
from trl_ext.trainers.preference.examples import ExampleTokens
from trl_ext.trainers.preference.metrics import StepMetrics
from trl_ext.trainers.preference.objective import Objective
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.retry import Retry
from trl_ext.trainers.preference.row_memory import RowMemory
from trl_ext.trainers.preference.rows import Rows
from trl_ext.trainers.preference.run_directory import Counters
from trl_ext.trainers.preference.runtime import Runtime
from trl_ext.trainers.preference.step import OptimizerStep


class PreferenceTrainer(ModelCard):
    """Mixin before TRL's DPO or KTO trainer, behind `FiniteSteps` and `StagedCheckpoint`.

    It overrides methods of TRL and transformers and leaves the work to the objects that `_assemble` builds. Images have
    to be collated in dataloader workers, so vision data keeps the parent's path throughout (`_compute_loss`). On several
    processes accelerate repeats examples to fill the last step of an epoch, as everywhere; they count there.

    A subclass says what an example is (`_completions`, `_columns`) and what is minimised (`_make_objective`).
    Attributes of the parent read: `data_collator`, `ref_model`, `aux_loss_enabled`, `router_aux_loss_coef`, `_metrics`,
    `_is_vision_dataset`, `maybe_activation_offload_context`.

    Attributes:
        loss: One of `trl_ext.losses`.
        runtime, tokens, references, memory, rows, retry, row_objective, step, evaluation, step_metrics: Its parts.
    """

    card_tags = ("preference-optimization",)
    _config_class: type
    _trl_loss_type: str | list[str]  # what TRL's constructor is told; its loss code never runs
    _completions: tuple[str, ...]  # columns of an example's completions
    _columns: tuple[str, ...]  # further columns that the loss reads
    _is_described = False

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        callbacks: Any = None,
        optimizers: tuple = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ) -> None:
        """As TRL's trainer; `args` is of this trainer's own configuration class.

        Raises:
            TypeError: `args` is another configuration.
            ValueError: Settings that cannot work here.
        """
        args = args or self._config_class(output_dir=f"{type(self).__name__}-output")
        if not isinstance(args, self._config_class):
            raise TypeError(
                f"{type(self).__name__} takes a {self._config_class.__name__}, not a {type(args).__name__}; it has all "
                "of TRL's fields and `loss`."
            )
        self.loss = losses.get(args.loss, **args.loss_kwargs)
        given = {
            "ref_model": ref_model,
            "data_collator": data_collator,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "processing_class": processing_class,
            "compute_metrics": compute_metrics,
            "callbacks": callbacks,
            "optimizers": optimizers,
            "quantization_config": quantization_config,
            "peft_config": peft_config,
        }
        self._refuse(args, model, given)
        has_adapter = peft_config is not None or lora.has_adapter(model)
        weights = lora.snapshot(model)
        with construction.temporarily(args, **self._told_to_trl(args, has_adapter, train_dataset)):
            super().__init__(model, args=args, **given)
        self.precompute_ref_logps = args.precompute_ref_log_probs and self.loss.needs_reference
        keep_exact_cpu_kernels(self.model)
        lora.restore(self.model, weights, dtype=getattr(torch, args.lora_dtype))
        if args.sync_ref_model and has_adapter:
            add_reference(self.model, args.ref_model_mixup_alpha)
            metrics = self._metrics["train"]
            self.add_callback(reference_sync.RefreshReference(self.model, self.accelerator, metrics))
        self._settle_loss()
        self._assemble(has_own_collator=data_collator is not None)

    # What a subclass provides ---------------------------------------------------------------------------------

    def _make_objective(self) -> Objective:
        """What is minimised, from the parts built before it."""
        raise NotImplementedError

    def _reads_live_reference(self) -> bool:
        """Whether reference values are asked for during training, rather than read from columns or never."""
        return self.loss.needs_reference and not self.precompute_ref_logps

    def _refuse(self, args: Any, model: Any, given: dict[str, Any]) -> None:
        """ValueError for arguments that cannot work."""
        construction.refuse(args, self.loss, model, given)

    def _told_to_trl(self, args: Any, has_adapter: bool, train_dataset: Any) -> dict[str, Any]:
        """Settings that TRL's constructor sees instead of the user's."""
        # It loads no second model when it is told that reference values are precomputed.
        reads_none = not has_adapter and not self.loss.needs_reference
        skips_reference = reads_none and not construction.has_images(train_dataset)
        return {
            "loss_type": self._trl_loss_type,
            "gradient_checkpointing": args.gradient_checkpointing is True,  # "auto" is settled before the first row
            "precompute_ref_log_probs": args.precompute_ref_log_probs or skips_reference,
            "sync_ref_model": args.sync_ref_model and not has_adapter,
        }

    def _settle_loss(self) -> None:
        """Replace hyperparameters that depend on the data, which TRL's constructor has read by now."""

    # Construction ---------------------------------------------------------------------------------------------

    def _assemble(self, has_own_collator: bool) -> None:
        """Build the parts, each handed what it needs."""
        self.runtime = Runtime(
            self.model, self.args, self.accelerator, self.compute_loss_context_manager, self._prepare_inputs
        )
        self.tokens = ExampleTokens(self.args, self._completions, self._columns)
        self.references = References(
            self.runtime,
            second_model=self.ref_model,
            is_live=self._reads_live_reference(),
            has_own_collator=has_own_collator,
        )
        self.memory = RowMemory(self.runtime, optimizer=lambda: self.optimizer)
        obstacle = packing.obstacle(
            self.args,
            self.model,
            has_second_model=self.ref_model is not None,
            has_own_collator=has_own_collator,
            has_aux_loss=self.aux_loss_enabled,
        )
        proof = packing.PackingProof(self.runtime, self.tokens, self.data_collator, obstacle)
        self.rows = Rows(self.runtime, self.tokens, self.memory, proof, self.data_collator)
        self.retry = Retry(self.runtime, self.rows, self.memory)
        self.row_objective = self._make_objective()
        self.step = OptimizerStep(
            self.runtime, self.references, self.rows, self.memory, self.row_objective, self.retry
        )
        self.evaluation = Evaluation(self.runtime, self.references, self.rows, self.row_objective, self.retry)
        self.step_metrics = StepMetrics(self.accelerator, self._metrics, self.row_objective, self._check_first_step)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        """TRL's, but data that is tokenised already is taken as it is."""
        if "prompt_ids" in (dataset.column_names or ()):
            return dataset
        return super()._prepare_dataset(dataset, *args)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if not self.loss.needs_reference:
            return dataset
        keep_exact_cpu_kernels(self.model)  # this runs inside the parent's constructor
        return super()._precompute_ref_logps(dataset, name, batch_size)

    # Dataloaders ----------------------------------------------------------------------------------------------

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        collator = self.data_collator
        if not self._is_vision_dataset:
            self.data_collator = Examples
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.data_collator = collator

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple:
        if self._is_vision_dataset:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return batches, None
        examples = Examples(example for batch in batches for example in batch)
        return [Examples()] * (len(batches) - 1) + [examples], None

    # Training -------------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_vision_dataset and self.args.gradient_checkpointing == "auto":
            # The parent's path has no rows to measure: all layers where memory is scarce, as TRL does.
            is_scarce = self.args.device.type != "cpu"
            self.args.activation_checkpointing = self.args.gradient_checkpointing = is_scarce  # newer and older name
        try:
            return super().train(*args, **kwargs)
        finally:
            self.references.flush()

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        if self._is_vision_dataset:
            return super().training_step(model, inputs, num_items_in_batch)
        if not inputs:
            return torch.zeros((), device=self.args.device)
        self.model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()  # schedule-free optimizers
        # A stream may end in the middle of a step, which then never reached the optimizer.
        self.model.zero_grad()
        if not self._is_described:
            self._is_described = True
            step_zero.announce(self)
        with self.maybe_activation_offload_context:
            sums = self.step.run(list(inputs))
        self.note_losses(self.step.losses)
        # The mean over all processes on each of them: transformers averages what they return.
        return torch.tensor(self.step_metrics.finish(sums, "train"), device=self.args.device)

    def _compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False) -> torch.Tensor:
        """Mean loss of one collated micro-batch: the parent's path, on which vision data runs."""
        if return_outputs:
            raise ValueError("The logits are never built here: call the trainer with `return_outputs=False`.")
        objective, sums = self.row_objective, MeanMetrics()
        tensors, fields = objective.score(model, inputs)
        output = objective.evaluate(tensors)
        losses = objective.weighted(output.losses, fields)
        sums.add("loss", losses.sum(), len(losses))
        objective.record(sums, inputs, tensors, fields, output)
        self.step_metrics.finish(sums, "train" if self.model.training else "eval")
        return losses.mean() + objective.aux_loss(fields, 1.0)

    def _check_first_step(self, loss: float, apart: float | None) -> None:
        """Compare the loss of a run's first step with the known one."""
        if self.state.global_step == 0:
            has_run_again = self.retry.has_run_again
            is_other = self.row_objective.scores_reference_apart or self.references.ran_otherwise(has_run_again)
            step_zero.check(self, loss, apart if is_other else None)

    def floating_point_ops(self, inputs: Any) -> int:
        if self._is_vision_dataset:
            return super().floating_point_ops(inputs)
        tokens = sum(map(self.tokens.count, inputs))
        return 6 * tokens * self.model.num_parameters(exclude_embeddings=True)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self._is_vision_dataset:
            super()._track_num_input_tokens(inputs)
        elif self.args.include_num_input_tokens_seen != "no":
            tokens = torch.tensor(sum(map(self.tokens.count, inputs)), device=self.args.device)
            self.state.num_input_tokens_seen += self.accelerator.gather(tokens).sum().item()

    # Evaluation -----------------------------------------------------------------------------------------------

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.evaluation.begin()
        output = super().evaluation_loop(*args, **kwargs)
        self.references.flush()
        return output

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple:
        if self._is_vision_dataset:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return torch.tensor(self.evaluation.add(list(inputs)), device=self.args.device), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not self.model.training and (sums := self.evaluation.take()) is not None:
            means = sums.means()
            means.pop("loss")
            self.step_metrics.keep(sums, means, "eval")
        super().log(logs, start_time)

    # What a run leaves behind ---------------------------------------------------------------------------------

    @property
    def row_tokens(self) -> int:
        """Tokens a row may hold."""
        return self.memory.row_tokens

    @property
    def longest_row(self) -> tuple[int, int]:
        """Tokens of the longest row trained on so far, and how many layers were recomputed in it."""
        return self.memory.longest_row

    def reference_counts(self) -> tuple[int, int] | None:
        """Different completions whose reference values were on disk, and those computed, over all processes.

        `None` if there is no cache. Every process has to ask.
        """
        return self.references.counts()

    def card_method(self) -> dict[str, str]:
        return card_of_loss(self.loss, step_zero.reference_of(self))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the trained adapter alone: the frozen copy it is compared with is not a result of the run."""
        has_copy = lora.has_adapter(self.model) and FROZEN_COPY in self.model.peft_config
        with lora.saved_alone(self.model, "default") if has_copy else contextlib.nullcontext():
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Our own files first: transformers writes its state last, and what has one can be resumed from.
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
            run_directory.write_counters(folder, Counters(self.step_metrics.trained_tokens, self.memory.row_budget))
            if self.args.sync_ref_model:
                reference_sync.save(self._moving_weights(), folder)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoint = Path(resume_from_checkpoint)
        reference_sync.load(self._moving_weights() if self.args.sync_ref_model else None, checkpoint)
        if (counters := run_directory.read_counters(checkpoint)) is not None:
            self.step_metrics.resume(counters.num_tokens)
            self.memory.resume(counters.row_budget)

    def _moving_weights(self) -> dict[str, torch.Tensor]:
        second = None if self.ref_model is None else self.accelerator.unwrap_model(self.ref_model)
        return reference_sync.moving_weights(self.model, second)
