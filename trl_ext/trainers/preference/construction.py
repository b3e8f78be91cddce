"""Check a trainer's arguments before anything is loaded."""

from typing import Any

import torch

from trl_ext.checks import launch, sharding
from trl_ext.data import margins
from trl_ext.data.missing_columns import GOLD, missing
from trl_ext.trainers.common import adapters, lora, overrides, recompute_options, streams
from trl_ext.trainers.preference import reference_sync, sharded


def has_images(dataset: Any) -> bool:
    """Whether the first example contains images. A streamed dataset may not know its columns."""
    example = next(iter(dataset)) if dataset is not None else {}
    return "image" in example or "images" in example


def bypassed(train_dataset: Any) -> dict[str, str]:
    """Methods of TRL's trainers that are not called, each with what to do instead. Images take TRL's own step."""
    of_step = {} if has_images(train_dataset) else overrides.OF_ROWS
    return of_step | overrides.OF_OLDER_TRL


def own_inputs(cls: type, data_collator: Any, train_dataset: Any) -> str | None:
    """A clause about the user's code that makes or reads the model's inputs; `None` without such code."""
    if data_collator is not None:
        return "a data collator was given"
    read = overrides.OF_BATCHES if has_images(train_dataset) else ()
    names = (name for name in ("_prepare_inputs", "_prepare_input", *read) if overrides.defined_by_user(cls, name))
    return next((f"`{cls.__name__}` overrides `{name}`" for name in names), None)


def told_to_trl(args: Any, has_adapter: bool, skips_reference: bool) -> dict[str, Any]:
    """Settings that TRL's constructor sees instead of the user's.

    Args:
        args: The trainer's configuration.
        has_adapter: An adapter is trained.
        skips_reference: TRL is to load no second model, as if reference log-probabilities were precomputed.
    """
    return {
        "gradient_checkpointing": args.gradient_checkpointing is True,  # "auto" is resolved before the first row
        "precompute_ref_log_probs": args.precompute_ref_log_probs or skips_reference,
        # A humanline variant updates it before the step, TRL after it.
        "sync_ref_model": args.sync_ref_model and not (has_adapter or args.humanline),
    }


def choose_checkpointing(args: Any) -> None:
    """Resolve `gradient_checkpointing: auto` for images, whose path has no rows to measure: on a GPU in all layers."""
    recompute_options.settle(args, args.device.type != "cpu")


def reads_later(dataset: Any, model: Any, ref_model: Any) -> bool:
    """Whether reference values of a dataset are computed as its rows are read, although others are precomputed.

    A stream cannot be given columns. Its values need a reference that is kept: an adapter's base, or a second model.
    """
    return streams.any_streamed(dataset) and (ref_model is not None or lora.has_adapter(model))


def refuse_unread_streams(args: Any, model: Any, given: dict[str, Any]) -> None:
    """ValueError for streamed data whose reference values would have to be computed before training."""
    has_reference = given.get("ref_model") is not None or adapters.in_training(model, given.get("peft_config"))
    if not args.precompute_ref_log_probs or has_reference:
        return
    for name in ("train_dataset", "eval_dataset"):
        if streams.any_streamed(given.get(name)):
            raise ValueError(
                "`precompute_ref_log_probs` without an adapter is not supported with IterableDataset. "
                f"`{name}` is streamed, and no reference model is kept to score its rows as they are read. Remove "
                "`precompute_ref_log_probs`, load the rows instead of "
                "streaming them, give a `ref_model`, or train an adapter."
            )


def refuse_unusable_columns(loss: Any, given: dict[str, Any]) -> None:
    """ValueError for data without a column that the loss reads, or with margins that are no numbers.

    A stream may not know its columns. Its margins are checked as its rows are read.
    """
    for name in ("train_dataset", "eval_dataset"):
        of_name = given.get(name)
        for dataset in of_name.values() if isinstance(of_name, dict) else [of_name]:
            present = getattr(dataset, "column_names", None) or ()
            for column in loss.columns if present else ():
                is_tokenised = column == GOLD and "prompt_ids" in present
                if (f"{column}_ids" if is_tokenised else column) not in present:
                    where = f"`{name}` is tokenised and" if is_tokenised else f"`{name}`"
                    raise ValueError(missing(where, column, loss.name))
    if margins.MARGIN in loss.columns:
        margins.refuse(given, reader_of(loss))


def reader_of(loss: Any) -> str:
    """The loss as the subject of a sentence about margins."""
    return f"the loss {loss.name}"


def refuse(args: Any, loss: Any, model: Any, given: dict[str, Any]) -> None:
    """ValueError for arguments with which the row-by-row step would be wrong or have no effect.

    Settings are judged by `trl_ext.checks` when the configuration is made.
    """
    if problem := launch.launched_sharded(args):
        raise ValueError(problem)
    if has_images(given.get("train_dataset")) and (problem := launch.refused_with_images(args, loss)):
        raise ValueError(problem)
    refuse_unusable_columns(loss, given)
    if args.activation_offloading and (args.use_cpu or not torch.accelerator.is_available()):
        raise ValueError(
            "`activation_offloading` moves activations to the CPU, and this run is on the CPU: remove it."
        )
    if loss.needs_reference:
        refuse_unread_streams(args, model, given)
    new = given.get("peft_config")
    quantised = given.get("quantization_config")
    reads_base = loss.needs_reference and not args.sync_ref_model
    adapters.refuse(model, new, quantization_config=quantised, needs_reference=reads_base)
    if sharding.is_on(args.fsdp):
        sharded.refuse(model, given, has_images=has_images(given.get("train_dataset")))
    if args.sync_ref_model:
        reference_sync.refuse(given.get("ref_model"), adapters.in_training(model, new))
