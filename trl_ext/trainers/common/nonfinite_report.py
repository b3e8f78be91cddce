"""Describe a step that is not finite: which examples caused it, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from trl_ext.checkpoints import found
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

SHOWN, WORDS = 3, 8
"""Examples a sentence quotes, and words of each."""


def step_number(trainer: Any) -> int:
    """The step in progress, counted from 1."""
    return trainer.state.global_step + 1


def examples(trainer: Any, inputs: list[Any], losses: Any) -> tuple[str, bool]:
    """Text that names the examples, and whether they are only some of the step's.

    Args:
        trainer: Gathers over processes and decodes tokens.
        inputs: Micro-batches of this process whose loss is not finite.
        losses: Pairs of a row of examples of this process and their losses (B,), where the trainer knows them.
    """
    judged = [pair for row, values in losses for pair in zip(row, values.isfinite().tolist(), strict=True)]
    bad, total = [_in_words(trainer, example) for example, is_finite in judged if not is_finite], len(judged)
    begins = [_first_words(trainer, batch["input_ids"][0]) for batch in inputs if "input_ids" in batch]
    if trainer.accelerator.num_processes > 1:
        parts = gather_object([(bad, total, begins)])
        bad, begins = ([text for part in parts for text in part[i]] for i in (0, 2))
        total = sum(part[1] for part in parts)
    if bad:
        shown = ", ".join(f"“{text}”" for text in bad[:SHOWN]) + (", …" if len(bad) > SHOWN else "")
        return f", from {len(bad)} of the step's {count(total, 'examples')} ({shown})", len(bad) < total
    return (f", from the micro-batch that begins with “{begins[0]}”" if begins else ""), False


def advice(trainer: Any, is_some: bool = False) -> str:
    """Text: what to do, the most likely cause first.

    Args:
        trainer: At the step.
        is_some: Whether only some of the step's examples are not finite.
    """
    args, may_be_rate = trainer.args, trainer.state.global_step > 0  # before that no weight was changed
    is_half = args.fp16 or trainer.model.dtype == torch.float16
    half = "set `bf16: true` instead of `fp16` (largest number: 65504)" if is_half else ""
    lower = f"lower `learning_rate` (it is {trainer._get_learning_rate():.3g} at this step)"
    if is_some:
        look = "Check these examples for unusual content"
        ways = [look, half, "skip such steps with `skip_nonfinite_steps`", lower if may_be_rate else ""]
        return f"{', or '.join(filter(None, ways))}."
    if not may_be_rate:
        way = half or "try `dtype: float32`, or another copy of the weights"
        return f"No weight was changed yet, so the model itself overflows: {way}."
    checkpoint = found.latest(Path(args.output_dir))
    again = f"resume {checkpoint} with `resume_changed: true`" if checkpoint else "start again"
    return f"{', or '.join(filter(None, [lower.capitalize(), half]))}, and {again}."


@contextmanager
def sampling(trainer: Any) -> Iterator[None]:
    """Inside, the policy is sampled from. UserError if its probabilities are not finite."""
    try:
        yield
    except RuntimeError as error:
        # `torch.multinomial` on a GPU says no more than that, and leaves the device unusable.
        on_device = "device-side assert" in str(error) and trainer.state.global_step > 0
        if not on_device and "probability tensor contains" not in str(error):
            raise
        raise UserError(
            f"Step {step_number(trainer)}: completions cannot be sampled, because the policy's probabilities are not finite. "
            f"{advice(trainer)}"
        ) from error


def _in_words(trainer: Any, example: dict[str, Any]) -> str:
    completion = example["completion_ids"] if "completion_ids" in example else example["chosen_ids"]
    return f"{_first_words(trainer, example['prompt_ids'])} → {_first_words(trainer, completion)}"


def _first_words(trainer: Any, ids: Tensor) -> str:
    return " ".join(trainer.processing_class.decode(ids, skip_special_tokens=True).split()[:WORDS])
