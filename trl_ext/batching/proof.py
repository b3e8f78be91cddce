"""Test on a model, before training, that packed rows give the same results as padded rows.

Four conditions must hold, since each alone can miss a wrong mask. The layers are of types that the mask supports. The model
requests a mask. Its attention takes no unsupported argument. Its log-probabilities agree with those of padded rows, while
those with a deliberately broken mask do not.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from trl_ext.batching import attention, kernels
from trl_ext.batching.packed import PackedRow
from trl_ext.support.counts import count
from trl_ext.support.memory_errors import is_out_of_memory

KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
# Families that mix tokens outside attention, or build their own masks; recognised by name, without running the model.
OWN_MASKS = {"bloom", "mpt", "falcon", "gpt_oss"}
# Settings of models whose layers have a state that `layer_types` does not mention.
STATE = ("ssm_cfg", "mamba_d_state", "state_size", "attn_layer_indices", "block_types")

TOLERANCE = {torch.float32: (1e-3, 1e-5, 0.0), torch.bfloat16: (0.1, 1e-3, 0.2), torch.float16: (0.1, 1e-3, 0.05)}
"""Tolerances of a completion's summed log-probability, in nats: absolute, relative, and per square root of its tokens."""


def known_to_be_wrong(config: Any) -> str | None:
    """Why packing does not work with a model, according to its configuration; `None` if it may."""
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ())
    if unknown := layers - KNOWN_LAYERS:
        return f"its {', '.join(sorted(unknown))} layers do not mix tokens by attention alone"
    if not layers and any(getattr(text, name, None) is not None for name in STATE):
        return "it mixes tokens outside attention"
    if text.model_type in OWN_MASKS:
        return f"{text.model_type} builds its attention in a way that packed rows do not support"
    if getattr(text, "attn_logit_softcapping", None):
        return "it soft-caps its attention scores, which packed rows do not support"
    return None


CHANGES_ITS_MASK = "it changes its attention mask itself, which packed rows do not support"


class Outcome(NamedTuple):
    """Result of a test: why packing fails, or `None`; and the measured values, as one clause."""

    reason: str | None
    measured: str = ""

    @classmethod
    def of_error(cls, error: Exception) -> "Outcome":
        """The result of a test that fails with an error. Errors of memory are raised again."""
        if is_out_of_memory(error):
            raise error
        if isinstance(error, AttributeError) and isinstance(error.obj, attention.SegmentMask):
            return cls(CHANGES_ITS_MASK)
        return cls(f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")


def allowed(logp: float, tokens: int, dtype: torch.dtype) -> float:
    """Largest difference between two correct passes in a completion's summed log-probability, in nats.

    Rounding errors of 16-bit dtypes grow from layer to layer. The errors of single tokens are nearly independent, so their
    sum grows with the square root of the number of tokens: random Llamas of 32 layers reach 0.15 nats times that root.

    Args:
        logp: The summed log-probability.
        tokens: Tokens of the completion.
        dtype: Compute dtype.
    """
    absolute, relative, per_root = TOLERANCE[dtype]
    return absolute + relative * abs(logp) + per_root * math.sqrt(tokens)


def prove(
    score: Callable[[PackedRow], torch.Tensor],
    padded: torch.Tensor,
    row: PackedRow,
    lengths: list[int],
    dtype: torch.dtype,
) -> Outcome:
    """Compare packed with padded log-probabilities on real prompts and their completions.

    Args:
        score: Runs a packed row and returns summed log-probabilities, shape (completions,).
        padded: Summed log-probabilities of the same completions in padded rows.
        row: Two prompts, so that attention to another prompt of the row would be noticed.
        lengths: Tokens of each different completion.
        dtype: Compute dtype, which sets the tolerance.
    """
    number, device = len(lengths), padded.device
    try:
        with attention.count_masks() as asked:
            difference = (score(row.to(device)) - padded).abs().max().item()
    except attention.CannotPackError as error:
        return Outcome(str(error))
    except Exception as error:  # a kernel that does not run on this device, or a model that changes its masks
        return Outcome.of_error(error)
    if not asked.masks:
        return Outcome("it builds its attention mask itself")
    row = replace(row, layout=attention.broken(row.layout))
    wrong = (score(row.to(device)) - padded).abs().max().item()
    limit = allowed(padded.abs().max().item(), max(lengths), dtype)
    measured = (
        f"{' and '.join(kernels.IN_WORDS[name] for name in sorted(asked.kernels))}; "
        f"log-probabilities of {count(number, 'completions')} differ by {difference:.1e} nats from padded rows "
        f"(tolerance {limit:.1e} in {str(dtype).removeprefix('torch.')}; with a broken mask {wrong:.1e})"
    )
    if not difference <= limit:
        return Outcome(f"packed and padded log-probabilities disagree: {measured}", measured)
    if number > 1 and not difference < 0.2 * wrong:
        return Outcome(f"a deliberately broken mask gives nearly the same log-probabilities: {measured}", measured)
    return Outcome(None, measured)


GRADIENT_TOLERANCE = 0.05
"""Largest relative difference between the gradients of two kernels that is due to rounding to 16 bits."""


def prove_gradient(
    score: Callable[[PackedRow], torch.Tensor], row: PackedRow, device: torch.device, outcome: Outcome
) -> Outcome:
    """Compare the gradients of a model's kernel with those of attention segment by segment, in every layer.

    Gradients of the whole model are not compared: rounding differences grow from layer to layer and could hide a wrong
    gradient, and the activations may not fit before the row length is chosen.

    Args:
        score: As for `prove`.
        row: As for `prove`.
        device: The model's device.
        outcome: The result of `prove`, to which this test is added.
    """
    try:
        with attention.compare_with_segments() as differences:
            score(row.to(device))
    except Exception as error:
        reason = (str(error) or "no message").splitlines()[0]
        return Outcome(f"its backward pass fails: {type(error).__name__}: {reason}")
    difference = torch.tensor([0.0, *differences]).max().item()  # a NaN among them, if there is one
    if not difference <= GRADIENT_TOLERANCE:
        return Outcome(f"its gradients differ by a relative {difference:.1e} from attention segment by segment")
    return Outcome(None, f"{outcome.measured}, gradients by a relative {difference:.1e} from segment by segment")
