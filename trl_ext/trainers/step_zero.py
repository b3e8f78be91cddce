"""Step 0: say which loss runs, and prove it on a value known in advance.

A fresh adapter changes nothing, so policy and reference agree and the loss must be ln 2 for DPO, 1/(4β²) for IPO,
and so on. A reference in another precision, a swapped column or a wrong adapter shows up here instead of after a
night of training.
"""

import math
from typing import Any

import torch
from accelerate.utils import is_peft_model
from tqdm import tqdm

from trl_ext import losses
from trl_ext.reference.implicit import policy_is_reference

# Relative. Policy and reference run the same kernels, but a checkpointed or autocast forward may round otherwise.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}


class WrongInitialLossError(RuntimeError):
    """The loss at policy = reference is not the one its formula gives."""


def describe(loss: Any) -> list[str]:
    """What runs: formula, reduction, beta's unit and hyperparameters, one line each."""
    lines = [f"loss {loss.name}: {loss.formula}" + (f"  ({loss.paper})" if loss.paper else "")]
    lines.append(f"  where {losses.NOTATION}")
    if loss.reduction:
        lines.append(f"  reduced: {loss.reduction}; mean over all examples of the step")
    beta = loss.hyperparameters.get("beta")
    if beta is not None and loss.beta_unit:
        lines.append(f"  beta {beta:g}: {loss.beta_unit}")
    rest = {name: value for name, value in loss.hyperparameters.items() if name != "beta" and value is not None}
    if rest:
        lines.append("  " + ", ".join(f"{name} {value}" for name, value in rest.items()))
    reference = "the base with its adapter off" if loss.needs_reference else "none: no reference pass is run"
    lines.append(f"  reference: {reference}")
    return lines


def check(trainer: Any, measured: float) -> None:
    """Compare the first step's loss with the known one and print the outcome.

    Args:
        trainer: A preference trainer before its first optimizer step.
        measured: Mean loss of the first step over all processes.

    Raises:
        WrongInitialLossError: Policy and reference have the same weights, yet the loss is another one.
    """
    lines = describe(trainer.loss)
    expected = trainer.loss.initial_value
    dtype = torch.bfloat16 if trainer.args.bf16 else torch.float16 if trainer.args.fp16 else torch.float32
    if expected is None:
        lines.append(f"  first step {measured:.4f}; what it should be depends on the data")
    elif getattr(trainer, "use_weighting", False):
        lines.append(f"  first step {measured:.4f}; WPO weights scale the loss by the data")
    elif not trainer.loss.needs_reference:
        lines.append(f"  first step {measured:.4f}")
    elif not is_peft_model(trainer.model):
        lines.append(f"  first step {measured:.4f}; {expected:.4f} is expected at policy = reference")
    elif not policy_is_reference(trainer.model):
        lines.append(f"  first step {measured:.4f}; the adapter does not start as its reference: not checked")
    elif math.isclose(measured, expected, rel_tol=TOLERANCE[dtype], abs_tol=TOLERANCE[dtype]):
        lines.append(f"  first step {measured:.4f} = {expected:.4f}, the known value at policy = reference: right")
    else:
        raise WrongInitialLossError(
            f"The first step's {trainer.loss.name} loss is {measured:.6f}, but policy and reference have the same "
            f"weights, where its formula {trainer.loss.formula} gives {expected:.6f}. Something changes one of the "
            "two forward passes (dropout left on, another precision, a reference from elsewhere): training would "
            "follow a wrong gradient and was stopped before the first update."
        )
    say(trainer, "\n".join(lines))


def say(trainer: Any, text: str) -> None:
    """Print once per run, around the progress bar."""
    if trainer.is_world_process_zero():
        tqdm.write(text)
