"""Step 0: say which loss runs, and prove it on a value known in advance.

A fresh adapter changes nothing, so policy and reference agree and the loss must be ln 2 for DPO, 1/(4β²) for IPO,
and so on. A reference in another precision, a swapped column or a wrong adapter shows up here instead of after a
night of training.
"""

import math
from typing import Any

import torch
from accelerate.utils import is_peft_model

from trl_ext import losses
from trl_ext.reference.implicit import FROZEN_COPY, policy_is_reference
from trl_ext.trainers.common.console import say

# Relative. Policy and reference run the same kernels on the same rows and agree almost to the bit.
TOLERANCE = 2e-5
TOLERANCE_16_BIT = 1e-4

APART = "apart"
"""What the distance of policy and reference is summed under until the first step is checked; it is never logged."""
APART_16_BIT = 5e-2
"""Nats per token between two passes of one network in batches of other shapes: more than rounding to 16 bits makes of it."""


class WrongInitialLossError(RuntimeError):
    """The loss at policy = reference is not the one its formula gives."""


def describe(loss: Any) -> list[str]:
    """What runs: formula, reduction, beta's unit and hyperparameters, one line each."""
    lines = [f"loss {loss.name}: {loss.formula}" + (f"  ({loss.paper})" if loss.paper else "")]
    lines.append(f"  where {losses.NOTATION}")
    lines.append(f"  reduced: {loss.reduction}; mean over all examples of the step")
    parts = loss.hyperparameters
    if not any(isinstance(value, dict) for value in parts.values()):
        parts = {"": parts}
    for name, values in parts.items():
        shown = ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)
        if shown:
            lines.append(f"  {name}: {shown}" if name else f"  {shown}")
    if loss.beta_unit:
        lines.append(f"  unit of beta: {loss.beta_unit}")
    return lines


def reference_of(trainer: Any) -> str:
    """What the policy is compared with, in words."""
    args = trainer.args
    if not trainer.loss.needs_reference:
        return "none: no reference pass is run"
    if args.sync_ref_model:
        what = "a second model" if trainer.ref_model is not None else "a frozen copy of the adapter"
        alpha = args.ref_model_mixup_alpha
        return (
            f"{what}; every {args.ref_model_sync_steps} steps it becomes {alpha:g}·policy + {1 - alpha:g}·reference "
            "(TR-DPO, arXiv:2404.09656), so its values are not cached"
        )
    if trainer.ref_model is not None:
        return "a second model"
    if getattr(trainer, "precompute_ref_logps", False) and not is_peft_model(trainer.model):
        return "values precomputed from the initial weights"
    if FROZEN_COPY in trainer.model.peft_config:
        return "a frozen copy of the adapter training continues from"
    return "the base with its adapter off"


def announce(trainer: Any) -> None:
    """Print what is about to run, before the first forward."""
    say(trainer.accelerator, "\n".join([*describe(trainer.loss), f"  reference: {reference_of(trainer)}"]))


def check(trainer: Any, measured: float, apart: float | None = None) -> None:
    """Compare the first step's loss with the known one and print the outcome.

    Args:
        trainer: A preference trainer before its first optimizer step.
        measured: Mean loss of the first step over all processes.
        apart: Where reference values come from batches of other shapes or other kernels, how far from them the policy
            is, in nats per token. In 16 bits, or on an 8-bit base, this is judged instead: rounding moves the loss the
            more, the longer completions are and the greater β is.

    Raises:
        WrongInitialLossError: Policy and reference have the same weights, yet the loss is another one.
    """
    expected = trainer.loss.initial_value
    first = f"  first step {measured:.4f}"
    unknown = _why_unknown(trainer)
    if unknown is not None:
        say(trainer.accelerator, f"{first}; not checked: {unknown}")
        return
    if apart is not None and _is_rounded(trainer):
        is_right, rounding = apart <= APART_16_BIT, f" but for rounding ({apart:.1g} nats per token)"
    else:
        tolerance = TOLERANCE_16_BIT if _is_rounded(trainer) else TOLERANCE
        is_right, rounding = math.isclose(measured, expected, rel_tol=tolerance), ""
    if is_right:
        say(trainer.accelerator, f"{first} = {expected:.4f}{rounding}, the known value at policy = reference: right")
        return
    raise WrongInitialLossError(
        f"The first step's {trainer.loss.name} loss is {measured:.6f}, but policy and reference have the same weights, "
        f"where its formula {trainer.loss.formula} gives {expected:.6f}. Something changes one of the two forward "
        "passes (another precision, a reference from elsewhere): training would follow a wrong gradient and was "
        "stopped before the first update."
    )


def _why_unknown(trainer: Any) -> str | None:
    """Why the first loss is not known in advance; `None` if it is."""
    if not trainer.loss.needs_reference or trainer.loss.initial_value is None:
        return "what it should be depends on the data"
    if getattr(trainer, "use_weighting", False):
        return "WPO weights scale it by the data"
    if not is_peft_model(trainer.model) or trainer.ref_model is not None:
        return "the reference is another model"
    if not policy_is_reference(trainer.model):
        return "the adapter does not start as its reference"
    if trainer.args.neftune_noise_alpha or any(
        isinstance(module, torch.nn.Dropout) and module.p > 0 for module in trainer.model.modules()
    ):
        return "dropout or NEFTune noise is on"
    return None


def is_8_bit(model: Any) -> bool:
    """Whether a model's linear layers round what they are given to 8 bits (LLM.int8)."""
    return bool(getattr(model, "is_loaded_in_8bit", False))


def _is_rounded(trainer: Any) -> bool:
    """Whether what a layer computes is rounded to 16 bits, or its inputs to 8."""
    if is_8_bit(trainer.model):
        return True
    return trainer.args.bf16 or trainer.args.fp16 or trainer.model.dtype in (torch.bfloat16, torch.float16)
