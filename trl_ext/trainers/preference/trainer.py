"""Override TRL's preference trainers and transformers' loop, so that an optimizer step is one batch.

Differences from TRL's constructor and transformers' loop:

1. Arguments that cannot work are rejected before anything is loaded (`trl_ext.trainers.preference.construction`).
2. No second model is loaded for a loss that does not read the reference. The reference of an adapter may be updated
   during training, which TRL does not support (`trl_ext.trainers.preference.reference_sync`).
3. The adapter of a quantised model keeps its dtype (`trl_ext.trainers.common.lora`), and bitsandbytes does not repack
   the 4-bit base (`trl_ext.support.frozen_base`). It is added into the output of its layer, and norms and MLPs store
   fewer tensors (`trl_ext.trainers.common.fused_kernels`).
4. Tokenised datasets (`trl_ext.inspection`) are used as they are.
5. The dataloaders return examples instead of collated tensors. All examples of a step come as one batch, with empty
   batches in place of the other micro-batches. So step counts, schedules, epochs and resuming do not change.
6. `trl_ext.trainers.preference.step` runs that batch. `trl_ext.trainers.preference.evaluation` runs evaluation batches.
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
from trl_ext.checks import sharding
from trl_ext.data import gold_tokens, margins
from trl_ext.data.golds import GOLD
from trl_ext.reference import frozen_copy, modules
from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.reference.starting_point import StartingPoint
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import device_cache, empty_data, fused_kernels, lora, overrides, step_zero, streams
from trl_ext.trainers.common.example_losses import ExampleLosses, changed_by
from trl_ext.trainers.common.model_card import ModelCard, card_of_loss
from trl_ext.trainers.common.temporarily import temporarily
from trl_ext.trainers.preference import (
    construction,
    embedding_noise,
    parts,
    reference_sync,
    run_directory,
    sharded,
    trl_spelling,
)
from trl_ext.trainers.preference.first_state import start_from_data
from trl_ext.trainers.preference.objective import Objective
from trl_ext.trainers.preference.run_directory import Counters


class PreferenceTrainer(ExampleLosses, ModelCard):
    """Mixin before TRL's DPO or KTO trainer, after `FiniteSteps` and `StagedCheckpoint`.

    It overrides methods of TRL and transformers; the objects that `trl_ext.trainers.preference.parts` builds do the work. Images have to be collated
    in dataloader workers, so vision data takes the parent's path throughout (`_compute_loss`). On several processes
    accelerate repeats examples to fill the last step of an epoch, as in any trainer, and these repetitions are trained on.

    A subclass names the columns of an example (`_completions`, `_columns`) and makes the objective (`_make_objective`).
    Attributes of the parent read: `data_collator`, `ref_model`, `aux_loss_enabled`, `router_aux_loss_coef`, `_metrics`,
    `_is_vision_dataset`, `maybe_activation_offload_context`.

    Attributes:
        loss: One of `trl_ext.losses`.
        runtime, tokens, references, reference_rows, memory, rows, image_rows, retry, row_objective, step, batch_loss, evaluation, step_metrics: Its parts.
    """

    card_tags = ("preference-optimization",)
    _config_class: type
    _trl_tag: str  # of TRL's trainer, for the losses that it has
    _trl_loss_type: str | list[str]  # for TRL's constructor; its loss code never runs
    _completions: tuple[str, ...]  # columns of an example's completions
    _columns: tuple[str, ...]  # further columns that a loss may read
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
                f"{type(self).__name__} takes a {self._config_class.__name__}, not a {type(args).__name__}. Use "
                f"{self._config_class.__name__}, which has all fields of TRL's configuration and `loss`."
            )
        self.loss = losses.get(args.loss, **args.loss_kwargs)
        self._tag_names = [*self._tag_names, *trl_spelling.tags(args.loss, self._trl_tag)]
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
        # With FSDP only one process may have loaded the weights of the base.
        start = None if sharding.is_on(args.fsdp) else StartingPoint.of(model)
        told = temporarily(args, **self._told_to_trl(args, has_adapter, train_dataset))
        with told, frozen_copy.made_by_trl(model):
            super().__init__(model, args=args, **given)
        if args.reference == "base":
            frozen_copy.remove(self.model)
        self.precompute_ref_logps = args.precompute_ref_log_probs and self.loss.needs_reference
        keep_exact_cpu_kernels(self.model)
        sharded.keep_dtypes(self.accelerator)
        lora.restore(self.model, weights, dtype=getattr(torch, args.lora_dtype))
        fused_kernels.install(self)
        if start is not None:
            step_zero.check_start(self, start)
        if args.sync_ref_model:
            reference_sync.install(self, has_adapter)
        self._settle_loss()
        self._set_signature_columns_if_needed()
        self._signature_columns = [*self._signature_columns, *self._completions, *self._columns]
        self._signature_columns += [f"{name.removesuffix('_ids')}_learned" for name in self._completions]
        parts.assemble(self, construction.own_inputs(type(self), data_collator, train_dataset))

    # What a subclass provides ---------------------------------------------------------------------------------

    def _make_objective(self) -> Objective:
        """Make the objective, after the parts it needs."""
        raise NotImplementedError

    def _reads_live_reference(self) -> bool:
        """Whether reference log-probabilities are needed during training, and not read from columns of the data."""
        is_streamed = streams.any_streamed(self.train_dataset, self.eval_dataset)
        return self.loss.needs_reference and (is_streamed or not self.precompute_ref_logps)

    def _refuse(self, args: Any, model: Any, given: dict[str, Any]) -> None:
        """ValueError for arguments that cannot work, and for methods of a subclass that would not be called."""
        empty_data.refuse(train_dataset=given["train_dataset"], eval_dataset=given["eval_dataset"])
        self._bypassed = construction.bypassed(given["train_dataset"])
        overrides.refuse(type(self), self._bypassed)
        construction.refuse(args, self.loss, model, given)

    def _told_to_trl(self, args: Any, has_adapter: bool, train_dataset: Any) -> dict[str, Any]:
        """Settings that TRL's constructor sees instead of the user's."""
        skips_reference = not (has_adapter or self.loss.needs_reference or construction.has_images(train_dataset))
        return {"loss_type": self._trl_loss_type} | construction.told_to_trl(args, has_adapter, skips_reference)

    def _settle_loss(self) -> None:
        """Set what depends on the data that TRL's constructor has prepared, and TRL's attributes of the loss."""
        raise NotImplementedError

    # Construction ---------------------------------------------------------------------------------------------

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        """Use tokenised data as it is; TRL tokenises other data."""
        if margins.MARGIN in self.loss.columns:
            dataset = margins.watched(dataset, args[-1], construction.reader_of(self.loss))
        if "prompt_ids" in (dataset.column_names or ()):
            return dataset
        prepare = super()._prepare_dataset
        if GOLD in self.loss.columns:
            return gold_tokens.tokenise(dataset, lambda rows: prepare(rows, *args))
        return prepare(dataset, *args)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if not self.loss.needs_reference or construction.reads_later(dataset, self.model, self.ref_model):
            return dataset
        keep_exact_cpu_kernels(self.model)  # this runs inside the parent's constructor
        if self.args.reference == "base":
            frozen_copy.remove(self.model)
        return super()._precompute_ref_logps(dataset, name, batch_size)

    # Dataloaders ----------------------------------------------------------------------------------------------

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any
    ) -> DataLoader:
        is_training = kwargs.get("is_training", False)
        read = streams.read_locally(self.accelerator, dataset, batch_size, is_training=is_training)
        collator = self._collator_of_images(dataset) if self._is_vision_dataset else Examples
        with temporarily(self, data_collator=collator):
            return super()._get_dataloader(read, description, batch_size, *args, **kwargs)

    def _collator_of_images(self, dataset: Any) -> Any:
        is_read = any(name in vars(self) for name in overrides.OF_BATCHES)  # by a function that was assigned
        return self.data_collator if is_read else self.image_rows.collator(self.data_collator, dataset)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple:
        if self._is_vision_dataset:
            micro_batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
            self.row_objective.share(micro_batches)
            return micro_batches, items
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return batches, None
        examples = Examples(example for batch in batches for example in batch)
        return [Examples()] * (len(batches) - 1) + [examples], None

    # Training -------------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # Rows keep the collator of the constructor. Images are collated by the one that is assigned.
        collator = None if self._is_vision_dataset else self.rows.collator
        overrides.refuse_assigned(self, self._bypassed, collator=collator)
        if self._is_vision_dataset:
            construction.choose_checkpointing(self.args)
        # A step that does not fit is repeated with shorter rows: only training on images restarts.
        may_restart = self.args.auto_find_batch_size and self._is_vision_dataset
        try:
            with temporarily(self.args, auto_find_batch_size=may_restart), embedding_noise.in_training(self):
                return super().train(*args, **kwargs)
        finally:
            self.references.flush()

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        if self._is_vision_dataset:
            return super().training_step(model, inputs, num_items_in_batch)
        if not inputs:
            return torch.zeros((), device=self.args.device)
        modules.train(self.model)
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()  # schedule-free optimizers
        device_cache.empty_on_schedule(self)
        # A stream may end within a step, whose gradients then never reached the optimizer.
        self.model.zero_grad()
        if not self._is_described:
            self._is_described = True
            step_zero.announce(self)
        if self.loss.starts_from_data and not self.row_objective.state.is_started:
            start_from_data(self)
        with self.maybe_activation_offload_context:
            sums = self.step.run(list(inputs))
        self.note_losses(self.step.losses)
        # The mean over all processes: transformers averages the returned values.
        return torch.tensor(self.step_metrics.finish(sums, "train"), device=self.args.device)

    def _compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False) -> Any:
        """Mean loss of a batch of the dataloaders, and the output of the model. Training calls it for images only."""
        loss = self.batch_loss.of(model, inputs, self.step_metrics if self._is_vision_dataset else None)
        return (loss, self.evaluation.output(inputs)) if return_outputs else loss

    def _check_first_step(self, loss: float, apart: float | None) -> None:
        """Compare the loss of a run's first step with its known value."""
        if self.state.global_step == 0:
            ran_otherwise = self.references.ran_otherwise(self.retry.has_run_again)
            is_other = ran_otherwise or self.row_objective.scores_reference_apart
            step_zero.check(self, loss, apart if is_other else None)

    def floating_point_ops(self, inputs: Any) -> int:
        if self._is_vision_dataset:
            return super().floating_point_ops(inputs)
        return 6 * sum(map(self.tokens.count, inputs)) * self.model.num_parameters(exclude_embeddings=True)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self._is_vision_dataset:
            super()._track_num_input_tokens(inputs)
        elif self.args.include_num_input_tokens_seen != "no":
            tokens = torch.tensor(sum(map(self.tokens.count, inputs)), device=self.args.device)
            self.state.num_input_tokens_seen += self.accelerator.gather(tokens).sum().item()

    # Evaluation -----------------------------------------------------------------------------------------------

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> Any:
        sharded.refuse_evaluation(self)
        self.evaluation.begin()
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        self.references.flush()
        return streams.exact(output, dataloader, *self.evaluation.loss(), **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple:
        if self._is_vision_dataset:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return self.evaluation.predict(inputs, with_logits=not prediction_loss_only)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not self.model.training and (sums := self.evaluation.take()) is not None:
            self.step_metrics.keep_evaluation(sums)
        super().log(logs, start_time)

    # Results of a run ----------------------------------------------------------------------------------------

    @property
    def row_tokens(self) -> int:
        """Tokens a row may hold."""
        return self.memory.row_tokens

    @property
    def longest_row(self) -> tuple[int, int]:
        """Tokens of the longest row trained on so far, and the number of layers checkpointed in it."""
        return self.memory.longest_row

    def reference_counts(self) -> tuple[int, int] | None:
        """Distinct completions read from the reference cache, and computed; see `References.counts`."""
        return self.references.counts()

    def card_method(self) -> dict[str, str]:
        return card_of_loss(self.loss, step_zero.reference_of(self), changed_by(self))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the trained adapter without the frozen copy that serves as reference."""
        has_copy = lora.has_adapter(self.model) and FROZEN_COPY in self.model.peft_config
        with lora.saved_alone(self.model, "default") if has_copy else contextlib.nullcontext():
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Our files come first: transformers writes its state last, and a folder with a state can be resumed.
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
            budgets, state = (self.memory.row_budget, self.memory.reference_budget), self.row_objective.state.values
            run_directory.write_counters(folder, Counters(self.step_metrics.trained_tokens, *budgets, state))
            if self.args.sync_ref_model:
                reference_sync.save(self._moving_weights(), folder)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoint = Path(resume_from_checkpoint)
        reference_sync.load(self._moving_weights() if self.args.sync_ref_model else None, checkpoint)
        if (counters := run_directory.read_counters(checkpoint)) is not None:
            self.step_metrics.resume(counters.num_tokens)
            self.memory.resume(counters.row_budget, counters.reference_budget)
        self.row_objective.state.restore(counters.loss_state if counters else {}, checkpoint)

    def _moving_weights(self) -> dict[str, torch.Tensor]:
        second = None if self.ref_model is None else self.accelerator.unwrap_model(self.ref_model)
        return reference_sync.moving_weights(self.model, second)
