"""Proof that packed rows compute what padded ones do, with this very model, before it costs anything.

Four things have to hold, since each alone can miss a wrong mask: the model's layers are of kinds the mask knows, it
asked for a mask at all, its attention takes no argument we do not reproduce, and its log-probabilities agree with
the padded ones while those of a deliberately broken mask do not.
"""

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

# Nats, on the summed log-probability of a completion: absolute, and relative to it.
TOLERANCE = {torch.float32: (1e-3, 1e-5), torch.bfloat16: (0.1, 1e-3), torch.float16: (0.1, 1e-3)}


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
    absolute, relative = TOLERANCE[dtype]
    limit = absolute + relative * padded.abs().max().item()
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
"""Relative difference of two kernels' gradients in 16 bits that rounding explains."""


def prove_gradient(
    score: Callable[[PackedRow], torch.Tensor],
    switch: Callable[[str], Any],
    kernel: str,
    tree: Tree,
    parameters: list[torch.nn.Parameter],
    outcome: Outcome,
) -> Outcome:
    """Compare the gradient that `kernel` gives on a packed row with that of attention segment by segment.

    Args:
        score: As for `prove`.
        switch: Lets the model use the kernel of a name.
        kernel: The kernel to prove; the model uses it before and after.
        tree: The prompt and its completions.
        parameters: With respect to which the gradients are taken.
        outcome: What `prove` found, to which this adds.
    """
    device = parameters[0].device
    row = pack([tree, tree]).to(device)
    direction = torch.linspace(-1, 1, 2 * len(tree.completions), device=device)  # unequal weights: nothing cancels
    try:
        gradients = {}
        for name in (kernels.SEGMENTS, kernel):
            switch(name)
            found = torch.autograd.grad((score(row) * direction).sum(), parameters, allow_unused=True)
            gradients[name] = torch.cat([g.flatten().float() for g in found if g is not None])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return Outcome(f"its backward pass fails: {type(error).__name__}: {str(error).splitlines()[0]}")
    difference = ((gradients[kernel] - gradients[kernels.SEGMENTS]).norm() / gradients[kernels.SEGMENTS].norm()).item()
    if not difference <= GRADIENT_TOLERANCE:
        return Outcome(f"its gradient differs by a relative {difference:.1e} from attention segment by segment")
    return Outcome(None, f"{outcome.measured}, gradients by a relative {difference:.1e} from segment by segment")
