"""Print which loss runs, and compare the loss of the first step with a value known in advance.

A fresh adapter changes nothing, so policy and reference agree and the loss must be ln 2 for DPO, 1/(4β²) for IPO,
and so on. A reference in another precision, a swapped column or a wrong adapter is found here instead of after a
night of training.
"""

import math
from typing import Any

import torch
from accelerate.utils import is_peft_model

from trl_ext import losses
from trl_ext.checks import objective
from trl_ext.reference import frozen_copy, modules
from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.reference.starting_point import StartingPoint
from trl_ext.trainers.common import example_losses
from trl_ext.trainers.common.console import detail, say

# Relative. Policy and reference run the same kernels on the same rows and agree almost to the bit.
TOLERANCE = 2e-5
TOLERANCE_16_BIT = 1e-4

APART = "apart"
"""Name of the metric that sums the distance of policy and reference until the first step is checked; it is not logged."""
HALF = (torch.bfloat16, torch.float16)
APART_16_BIT, APART_32_BIT = 5e-2, 1e-4
"""Nats per token between two passes of one network in batches of different shapes. Rounding stays below it."""


class WrongInitialLossError(RuntimeError):
    """The loss at policy = reference differs from the value that its formula gives."""


def describe(loss: Any) -> str:
    """The line of a loss: name, beta and hyperparameters that differ from their defaults, formula."""
    given = _in_words(_changed(loss))
    return f"loss {loss.name}: {loss.formula}" + (f", with {given}" if given else "")


def describe_fully(loss: Any) -> list[str]:
    """Lines that explain the formula of a loss: notation, reduction, all hyperparameters, the unit of beta, the paper."""
    lines = [f"  where {losses.NOTATION}" + (f" ({loss.paper})" if loss.paper else "")]
    lines.append(f"  reduction: {loss.reduction}; mean over all examples of the step")
    if shown := _in_words(loss.hyperparameters):
        lines.append(f"  {shown}")
    if loss.beta_unit:
        lines.append(f"  unit of beta: {loss.beta_unit}")
    return lines


def _changed(loss: Any) -> dict[str, Any]:
    """Beta, and the hyperparameters that differ from the defaults; of a mix, by the name of each part."""
    parts = getattr(loss, "components", (loss,))
    found = {}
    for part in parts:
        defaults = losses.describe(part.name).hyperparameters
        found[part.name] = {
            key: value for key, value in part.hyperparameters.items() if key == "beta" or value != defaults.get(key)
        }
    return found if len(parts) > 1 else found[parts[0].name]


def _in_words(values: dict[str, Any]) -> str:
    """`beta 0.1, label_smoothing 0.0`; of a mix with the name of the part in front."""
    shown = []
    for key, value in values.items():
        if isinstance(value, dict):
            inner = _in_words(value)
            shown += [f"{key}: {inner}"] if inner else []
        elif value is not None:
            shown.append(f"{key} {value}")
    return ("; " if any(isinstance(value, dict) for value in values.values()) else ", ").join(shown)


def reference_of(trainer: Any) -> str:
    """Describe the reference of a trainer."""
    args = trainer.args
    if not trainer.loss.needs_reference:
        return "none: no reference pass is run"
    if args.sync_ref_model:
        what = "a second model" if trainer.ref_model is not None else "a frozen copy of the adapter"
        updated = objective.updates(args.humanline, args.ref_model_sync_steps, args.ref_model_mixup_alpha)
        source = "humanline, arXiv:2509.24207" if args.humanline else "TR-DPO, arXiv:2404.09656"
        return f"{what}, {updated} ({source}); its values are not cached"
    if trainer.ref_model is not None:
        return "a second model in memory, beside the trained one"
    if getattr(trainer, "precompute_ref_logps", False) and not is_peft_model(trainer.model):
        return "values precomputed from the initial weights"
    if FROZEN_COPY in trainer.model.peft_config:
        return "a frozen copy of the adapter that training continues from"
    return "the base model with its adapter off"


def announce(trainer: Any) -> None:
    """Print the loss and its reference, before the first forward pass; the log also gets what the formula means."""
    changes = [*objective.changes_of(trainer.args), *filter(None, [example_losses.changed_by(trainer)])]
    changed = [f"  changed by {change}" for change in changes]
    say(trainer.accelerator, "\n".join([describe(trainer.loss), *changed, f"reference: {reference_of(trainer)}"]))
    detail(trainer.accelerator, "\n".join(describe_fully(trainer.loss)))


def check_start(trainer: Any, start: StartingPoint) -> None:
    """Compare policy and reference with the model that the trainer was given, before the first step, and print the result.

    Args:
        trainer: A trainer after its constructor restored the dtypes of the adapter.
        start: Of the model as it was given.

    Raises:
        ValueError: They differ.
    """
    if FROZEN_COPY in trainer.model.peft_config:
        frozen_copy.match(trainer.model)
    autocast = trainer.compute_loss_context_manager
    say(trainer.accelerator, start.compare(trainer.model, autocast, is_rounded=is_rounded(trainer)))


def check(trainer: Any, measured: float, apart: float | None = None) -> None:
    """Compare the loss of the first step with the known value and print the result.

    Args:
        trainer: A preference trainer before its first optimizer step.
        measured: Mean loss of the first step over all processes.
        apart: Mean distance of policy and reference in nats per token, if reference values were computed in batches of
            another shape or by other kernels. It then decides where the loss does not equal the known value, because the
            effect of rounding on the loss grows with the length of completions and with β. In 16 bits, or on an 8-bit base,
            it decides alone.

    Raises:
        WrongInitialLossError: Policy and reference have the same weights, but the loss differs from the known value.
    """
    expected = trainer.loss.initial_value
    first = f"loss at the first step {measured:.4f}"
    unknown = _why_unknown(trainer)
    if unknown is not None:
        say(trainer.accelerator, f"{first}; not checked: {unknown}")
        return
    in_16_bits, rounding = is_rounded(trainer), ""
    is_right = math.isclose(measured, expected, rel_tol=TOLERANCE_16_BIT if in_16_bits else TOLERANCE)
    if apart is not None and (in_16_bits or not is_right):
        is_right = apart <= (APART_16_BIT if in_16_bits else APART_32_BIT)
        rounding = f" up to rounding ({apart:.1g} nats per token)"
    if is_right:
        say(
            trainer.accelerator,
            f"{first} = {expected:.4f}{rounding}, the known value at policy = reference: correct",
        )
        return
    raise WrongInitialLossError(
        f"The first step's {trainer.loss.name} loss is {measured:.6f}. Policy and reference have the same weights, so "
        f"its formula {trainer.loss.formula} gives {expected:.6f}. One of the two forward passes is different, for "
        "example its precision or the origin of the reference values. The gradient would be wrong, so training was "
        "stopped before the first update."
    )


def _why_unknown(trainer: Any) -> str | None:
    """Reason why the first loss is not known in advance; `None` if it is."""
    if (method := example_losses.changed_by(trainer)) is not None:
        return f"{method} changes the loss"
    if not trainer.loss.needs_reference or trainer.loss.initial_value is None:
        return "the expected value depends on the data"
    if getattr(trainer, "use_weighting", False):
        return "WPO weights, which depend on the data, scale the loss"
    if not is_peft_model(trainer.model) or trainer.ref_model is not None:
        return "the reference is a separate model"
    if not frozen_copy.policy_is_reference(trainer.model):
        return "the adapter differs from its reference at the start"
    if trainer.args.neftune_noise_alpha or modules.has_dropout(trainer.model):
        return "dropout or NEFTune noise is on"
    return None


def is_8_bit(model: Any) -> bool:
    """Whether a model's linear layers round their inputs to 8 bits (LLM.int8)."""
    return bool(getattr(model, "is_loaded_in_8bit", False))


def is_rounded(trainer: Any) -> bool:
    """Whether outputs of a layer are rounded to 16 bits, or its inputs to 8."""
    if is_8_bit(trainer.model):
        return True
    of_base = getattr(
        getattr(getattr(trainer.model, "config", None), "quantization_config", None), "bnb_4bit_compute_dtype", None
    )
    return trainer.args.bf16 or trainer.args.fp16 or any(dtype in HALF for dtype in (trainer.model.dtype, of_base))
