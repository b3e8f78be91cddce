"""What happens around the construction of a TRL trainer, which does a few things to a model that we undo."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftConfig, PeftModel

from trl_ext import losses
from trl_ext.checks import launch
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import lora
from trl_ext.trainers.preference import reference_sync


class Construction:
    """Mixin before a TRL preference trainer: refuses what cannot work before anything is loaded, then

    1. keeps TRL from casting the adapter of a quantised model to bfloat16 (`trl_ext.trainers.common.lora`);
    2. keeps it from loading a second model for a loss that reads no reference;
    3. keeps bitsandbytes from repacking the 4-bit base (`trl_ext.support.frozen_base`);
    4. refreshes the reference of an adapter, which TRL refuses to (`trl_ext.trainers.preference.reference_sync`);
    5. takes data that is tokenised already (`trl_ext.inspection`) as it is.

    Overrides `_prepare_dataset` and `_precompute_ref_logps`, both of which TRL calls from its constructor.
    """

    _config_class: type
    _trl_loss_type: str | list[str]  # what TRL's constructor is told; its loss code never runs

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
        with self._around_construction(model, args, given):
            super().__init__(model, args=args, **given)

    @contextlib.contextmanager
    def _around_construction(self, model: Any, args: Any, given: dict[str, Any]) -> Iterator[None]:
        """Wraps the parent's `__init__`.

        Args:
            model: As given to the trainer: a path, a model or a `PeftModel`.
            args: The trainer's configuration.
            given: The other arguments of the constructor.
        """
        refuse(args, self.loss, model, given)
        has_adapter = given.get("peft_config") is not None or lora.has_adapter(model)
        # TRL loads no second model when it is told that reference values are precomputed.
        skips_reference = not has_adapter and not self.loss.needs_reference and not has_images(given["train_dataset"])
        weights = lora.snapshot(model)
        with _temporarily(
            args,
            loss_type=self._trl_loss_type,
            gradient_checkpointing=args.gradient_checkpointing is True,  # "auto" is settled before the first row
            precompute_ref_log_probs=args.precompute_ref_log_probs or skips_reference,
            sync_ref_model=args.sync_ref_model and not has_adapter,
        ):
            yield
        self.precompute_ref_logps = args.precompute_ref_log_probs and self.loss.needs_reference
        keep_exact_cpu_kernels(self.model)
        lora.restore(self.model, weights, dtype=getattr(torch, args.lora_dtype))
        if args.sync_ref_model and has_adapter:
            reference_sync.begin(self)
        self._has_own_collator = given.get("data_collator") is not None

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


@contextlib.contextmanager
def _temporarily(args: Any, **values: Any) -> Iterator[None]:
    """What TRL's constructor is told instead of what the user set."""
    before = {name: getattr(args, name) for name in values}
    vars(args).update(values)
    try:
        yield
    finally:
        vars(args).update(before)


def has_images(dataset: Any) -> bool:
    """Whether the first example holds images; a dataset may be a stream, which cannot be asked for its columns."""
    example = next(iter(dataset)) if dataset is not None else {}
    return "image" in example or "images" in example


def refuse(args: Any, loss: Any, model: Any, given: dict[str, Any]) -> None:
    """ValueError for arguments with which the row-by-row step would be wrong or have no effect.

    Settings are judged by `trl_ext.checks` when the configuration is made.
    """
    if problem := launch.launched_sharded(args):
        raise ValueError(problem)
    if given.get("compute_metrics") is not None:
        raise ValueError(
            "`compute_metrics` reads full logits, which are never built here: read the logged metrics instead."
        )
    if args.activation_offloading and (args.use_cpu or not torch.accelerator.is_available()):
        raise ValueError(
            "`activation_offloading` moves activations to the CPU, and this run is on the CPU: remove it."
        )
    adapters: list[PeftConfig] = [given["peft_config"]] if given.get("peft_config") is not None else []
    if isinstance(model, PeftModel):
        adapters += model.peft_config.values()
    problem = lora.changes_the_base(given.get("peft_config"))
    if problem is not None and loss.needs_reference and not args.sync_ref_model:
        raise ValueError(f"{problem} Or set `sync_ref_model: true`.")
    for adapter in adapters:
        if problem := lora.trains_biases(adapter):
            raise ValueError(problem)
    if args.sync_ref_model:
        reference_sync.refuse(given.get("ref_model"), adapters)
