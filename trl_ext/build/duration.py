"""Count the steps of a run and the batches of its evaluations before weights are loaded, and refuse runs that would do nothing."""

from __future__ import annotations

import math
from typing import Any

from datasets import Dataset, IterableDataset
from trl import pack_dataset

from trl_ext.methods import Method
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.trainers.rollout.checks import prompts_per_rollout, refuse_few_prompts


def count_steps(method: Method, args: Any, train: Dataset | IterableDataset, evaluation: Any) -> int:
    """The optimizer steps of a run from its beginning; for packed rows an upper bound.

    Args:
        method: The kind of training.
        args: The trainer's configuration.
        train: The data to train on, as the trainer takes it, without the rows that the trainer would drop.
        evaluation: The same to evaluate on, or `None`.

    Raises:
        UserError: The run would take no step, or an evaluation would have no batch.
    """
    _require_evaluation(method, args, evaluation)
    if isinstance(train, IterableDataset):
        _require_stream(train, prompts_per_rollout(args) if method.samples_completions else 1, "training")
        return args.max_steps
    if method.samples_completions:
        try:
            refuse_few_prompts(args, train)
        except ValueError as error:
            raise UserError(str(error)) from error
        # A rollout has `num_iterations` epochs of `steps_per_generation` micro-batches.
        rollouts = len(train) // prompts_per_rollout(args)
        batches = rollouts * args.num_iterations * args.steps_per_generation
    else:
        rows = _packed(args, train, getattr(args, "packing", False))
        batches = batches_per_epoch(args, rows, args.train_batch_size)
        if not batches:
            raise UserError(
                _no_batch(args, f"The training data has {count(rows, 'rows')}", "train", "no step would be taken")
            )
    each_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * each_epoch)


def batches_per_epoch(args: Any, rows: int, size: int) -> int:
    """The batches that each process gets from the data loader, as accelerate deals them out."""
    processes = 1 if args.accelerator_config.split_batches else args.world_size
    if not args.dataloader_drop_last:
        return math.ceil(math.ceil(rows / size) / processes)
    if args.train_sampling_strategy == "batch_rebalance":  # which deals out whole steps
        steps = args.gradient_accumulation_steps
        return rows // (size * steps * processes) * steps
    return rows // size // processes


def _require_evaluation(method: Method, args: Any, evaluation: Any) -> None:
    if isinstance(evaluation, IterableDataset):
        _require_stream(evaluation, 1, "evaluation")
    if not isinstance(evaluation, Dataset):
        return
    given = f"The evaluation data has {count(len(evaluation), 'rows')}"
    if not len(evaluation):
        raise UserError(
            f"{given}, so nothing would be evaluated. Choose another split (`dataset_test_split`) or `eval_size`."
        )
    if not args.dataloader_drop_last:
        return
    rows, size = len(evaluation), args.eval_batch_size
    if method.samples_completions:
        rows *= args.num_generations_eval or args.num_generations
    else:
        packing = getattr(args, "eval_packing", None)
        rows = _packed(args, evaluation, getattr(args, "packing", False) if packing is None else packing)
    if rows // size // args.world_size == 0:
        raise UserError(_no_batch(args, given, "eval", "nothing would be evaluated"))


def _no_batch(args: Any, given: str, kind: str, result: str) -> str:
    key = f"per_device_{kind}_batch_size"
    size = getattr(args, key)
    processes = f" on each of {args.world_size} processes" if args.world_size > 1 else ""
    return (
        f"{given}, and a batch has {size:,} (`{key}`){processes}. `dataloader_drop_last` drops batches that are not full, so "
        f"{result}. Remove `dataloader_drop_last`, or lower `{key}`."
    )


def _packed(args: Any, dataset: Dataset, packing: bool) -> int:
    """Rows of the trainer's data set. TRL packs in its constructor, so rows are packed here only where it matters."""
    if not packing or not args.dataloader_drop_last or "input_ids" not in dataset.column_names:
        return len(dataset)
    return len(pack_dataset(dataset.select_columns(["input_ids"]), args.max_length, args.packing_strategy))


def _require_stream(stream: IterableDataset, needed: int, kind: str) -> None:
    """UserError if a stream has fewer rows than the first batch needs."""
    found = sum(1 for _ in stream.take(needed))
    if found == 0:
        raise UserError(f"The stream of {kind} data has no rows. Choose another split or file.")
    if found < needed:
        raise UserError(
            f"The stream of {kind} data has {count(found, 'prompts')}, but a rollout needs {needed:,}. Give more prompts, or lower "
            "`per_device_train_batch_size`, `gradient_accumulation_steps` or `steps_per_generation`."
        )
