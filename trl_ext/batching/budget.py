"""How long rows may be, and how many layers must be recomputed, for a step to fit its memory and take least time.

A layer that is checkpointed keeps its input alone and is computed a second time in the backward pass; one that is not
keeps everything its backward pass reads. Checkpointing the first layers is best: by the time they are recomputed, what
the later ones kept is free again.
"""

import math
from typing import NamedTuple

LARGEST_ROW = 4096
"""Tokens of a row beyond which nothing is gained: a 4-bit base is dequantised once per row, in about the time that
`DEQUANTISATION` tokens take."""
DEQUANTISATION = 230
BACKWARD = 1.25
"""What the backward pass of a layer holds at its worst moment, in units of what the layer keeps for it."""
STEP = 256
"""Rows are a multiple of this many tokens, so that a little more or less free memory changes nothing."""


class Footprint(NamedTuple):
    """Bytes that one token of a row keeps for the backward pass.

    Attributes:
        stored: In a layer that is not checkpointed.
        checkpointed: In one that is: its input.
        rest: Outside the layers: embeddings, final norm, LM head.
        layers: Number of layers.
    """

    stored: float
    checkpointed: float
    rest: float
    layers: int

    def peak(self, checkpointed_layers: int) -> float:
        """Bytes per token at the worst moment of a backward pass through the last layer or the last recomputed one."""
        inputs = checkpointed_layers * self.checkpointed
        stored = (self.layers - checkpointed_layers) * self.stored
        last = stored + (BACKWARD - 1) * self.stored if stored else 0.0
        recomputed = BACKWARD * self.stored if checkpointed_layers else 0.0
        return inputs + max(last, recomputed) + self.rest


class Choice(NamedTuple):
    """Tokens of a row at most, and how many layers, counted from the first, are checkpointed."""

    row_tokens: int
    checkpointed_layers: int


def choose(
    footprint: Footprint,
    free: float,
    longest: int,
    *,
    row_tokens: int | None = None,
    checkpointed_layers: int | None = None,
) -> Choice:
    """The fastest choice that fits.

    Time per token is proportional to 6 + 2·(share of checkpointed layers), forward 2, backward 2 and reference 2 with
    a frozen base, times 1 + `DEQUANTISATION` / row_tokens. Where nothing fits, it is all layers and rows of one
    example.

    Args:
        footprint: Bytes per token, measured on the model.
        free: Bytes that activations may take.
        longest: Tokens of the longest example, which a row has to hold.
        row_tokens: Tokens of a row, if they are given.
        checkpointed_layers: Checkpointed layers, if they are given.
    """
    layers = footprint.layers
    counts = range(layers + 1) if checkpointed_layers is None else [checkpointed_layers]
    choices = []
    for count in counts:
        fits = int(free / footprint.peak(count))
        tokens = row_tokens or min(max(LARGEST_ROW, longest), max(fits // STEP * STEP, min(fits, longest)))
        if tokens <= fits and longest <= fits:
            time = (6 + 2 * count / max(layers, 1)) * (1 + DEQUANTISATION / tokens)
            choices.append((time, Choice(tokens, count)))
    if choices:
        return min(choices)[1]
    return Choice(row_tokens or max(longest, STEP), layers if checkpointed_layers is None else checkpointed_layers)


def in_words(choice: Choice, footprint: Footprint, free: float) -> str:
    """The choice as one clause for the log."""
    count, layers = choice.checkpointed_layers, footprint.layers
    share = {0: "no layer is recomputed", layers: f"all {layers} layers are recomputed"}
    recomputed = share.get(count, f"{count} of {layers} layers are recomputed")
    need = choice.row_tokens * footprint.peak(count)
    return f"at most {choice.row_tokens:,} tokens, {recomputed}; about {_size(need)} of {_size(free)} free for activations"


def _size(count: float) -> str:
    power = max(0, min(3, int(math.log(max(count, 1), 1024))))
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
