"""Proof that packed rows compute what padded ones do, with this very model, before it costs anything.

Four things have to hold, since each alone can miss a wrong mask: the model's layers are of kinds the mask knows, it
asked for a mask at all, its attention takes no argument we do not reproduce, and its log-probabilities agree with
the padded ones while those of a deliberately broken mask do not.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from trl_ext.batching import attention, kernels
from trl_ext.batching.packed import PackedRow, Tree, pack

KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
# Families that mix tokens outside attention or build masks of their own; recognised by name before they cost time.
OWN_MASKS = {"bloom", "mpt", "falcon", "gpt_oss"}
# Set where layers carry state and `layer_types` does not say so.
STATE = ("ssm_cfg", "mamba_d_state", "state_size", "attn_layer_indices", "block_types")

TOLERANCE = {torch.float32: (1e-3, 1e-5, 0.0), torch.bfloat16: (0.1, 1e-3, 0.2), torch.float16: (0.1, 1e-3, 0.05)}
"""Nats, on the summed log-probability of a completion: absolute, relative to it, and per square root of its tokens."""


def known_to_be_wrong(config: Any) -> str | None:
    """Why a model cannot be packed, judged from its configuration alone; `None` if nothing speaks against it."""
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ())
    if unknown := layers - KNOWN_LAYERS:
        return f"its {', '.join(sorted(unknown))} layers do not mix tokens by attention alone"
    if not layers and any(getattr(text, name, None) is not None for name in STATE):
        return "it mixes tokens outside attention"
    if text.model_type in OWN_MASKS:
        return f"{text.model_type} builds its attention in a way packed rows do not reproduce"
    if getattr(text, "attn_logit_softcapping", None):
        return "it soft-caps its attention scores, which packed rows do not reproduce"
    return None


class Outcome(NamedTuple):
    """Why packing is wrong here, or `None`; and what was measured, as one clause."""

    reason: str | None
    measured: str = ""


def allowed(logp: float, tokens: int, dtype: torch.dtype) -> float:
    """How far two correct passes may be apart in a completion's summed log-probability, nats.

    Roundings to 16 bits grow from layer to layer, and errors of single tokens are as good as independent, so that their
    sum grows with the square root of their number: random Llamas of 32 layers reach 0.15 nats times that root.

    Args:
        logp: The sum.
        tokens: Of the completion.
        dtype: Compute dtype.
    """
    absolute, relative, per_root = TOLERANCE[dtype]
    return absolute + relative * abs(logp) + per_root * math.sqrt(tokens)


def prove(score: Callable[[PackedRow], torch.Tensor], padded: torch.Tensor, tree: Tree, dtype: torch.dtype) -> Outcome:
    """Compare packed with padded log-probabilities on one real prompt and its completions.

    Args:
        score: Runs a packed row and returns summed log-probabilities, shape (completions,).
        padded: The same completions' summed log-probabilities on the padded path.
        tree: The prompt and its completions.
        dtype: Compute dtype, which sets the tolerance.
    """
    row = pack([tree, tree])  # twice, so that a neighbour in the row is there to leak from
    number = len(tree.completions)
    device = padded.device
    try:
        with attention.count_masks() as asked:
            difference = (score(row.to(device)) - padded.repeat(2)).abs().max().item()
    except attention.CannotPackError as error:
        return Outcome(str(error))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a kernel that does not run on this device, or a model that works on its own masks
        return Outcome(f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")
    if not asked.masks:
        return Outcome("it builds its attention mask itself")
    row.layout = attention.broken(row.layout)
    wrong = (score(row.to(device)) - padded.repeat(2)).abs().max().item()
    limit = allowed(padded.abs().max().item(), max(map(len, tree.completions)), dtype)
    measured = (
        f"{' and '.join(kernels.IN_WORDS[name] for name in sorted(asked.kernels))}; "
        f"{number} completions of one prompt differ by {difference:.1e} nats from padded ones "
        f"(allowed {limit:.1e} in {str(dtype).removeprefix('torch.')}; a broken mask: {wrong:.1e})"
    )
    if not difference <= limit:
        return Outcome(f"packed and padded log-probabilities disagree: {measured}", measured)
    if number > 1 and not difference < 0.2 * wrong:
        return Outcome(f"a broken mask is not told apart from a right one: {measured}", measured)
    return Outcome(None, measured)


GRADIENT_TOLERANCE = 0.05
"""Relative difference of two kernels' gradients at the same queries, keys and values that rounding to 16 bits explains."""


def prove_gradient(
    score: Callable[[PackedRow], torch.Tensor], tree: Tree, device: torch.device, outcome: Outcome
) -> Outcome:
    """Compare the gradients of the kernel a model uses with those of attention segment by segment, layer by layer.

    Not through the whole model, whose layers make more of a rounding than a wrong gradient need be, and whose
    activations may not fit before the length of rows is settled.

    Args:
        score: As for `prove`.
        tree: The prompt and its completions.
        device: Where the model is.
        outcome: What `prove` found, to which this adds.
    """
    try:
        with attention.compare_with_segments() as differences:
            score(pack([tree, tree]).to(device))
    except Exception as error:
        reason = (str(error) or "no message").splitlines()[0]
        return Outcome(f"its backward pass fails: {type(error).__name__}: {reason}")
    difference = torch.tensor([0.0, *differences]).max().item()  # a NaN among them, if there is one
    if not difference <= GRADIENT_TOLERANCE:
        return Outcome(f"its gradient differs by a relative {difference:.1e} from attention segment by segment")
    return Outcome(None, f"{outcome.measured}, gradients by a relative {difference:.1e} from segment by segment")
