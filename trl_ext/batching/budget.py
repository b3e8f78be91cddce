"""Choose the row length and the number of checkpointed layers with which a step fits in memory and takes the least time.

A checkpointed layer keeps only its input and is computed again in the backward pass. Other layers keep everything that
their backward pass reads. Checkpointing the first layers is best: when they are recomputed, the activations of the later
layers have been freed.
"""

from typing import NamedTuple

LARGEST_ROW = 4096
"""Longest row, in tokens. Longer rows would save almost no time: a 4-bit base is dequantised once per row, which takes
about as long as `DEQUANTISATION` tokens."""
DEQUANTISATION = 230
BACKWARD = 1.4
"""Peak memory of a layer's backward pass, relative to the activations that the layer keeps."""
STEP = 256
"""Row lengths are multiples of this many tokens, so that small changes of free memory do not change them."""
LONGER = 8
"""How many times as long as the policy's a row without gradient is at most. A 4-bit base is dequantised once per row."""
LONGER_IF_RECOMPUTED = 2
"""The same if every layer is checkpointed and nothing was measured: the policy's row then keeps little more than a layer."""


class Footprint(NamedTuple):
    """Bytes kept for the backward pass.

    Attributes:
        stored: Per token, in a layer that is not checkpointed.
        checkpointed: Per token, in one that is: its input.
        rest: Per token, outside the layers: embeddings, final norm, LM head.
        constant: Independent of the number of tokens: weights cast by autocast, for instance.
        layers: Number of layers.
    """

    stored: float
    checkpointed: float
    rest: float
    constant: float
    layers: int

    def peak(self, tokens: int, checkpointed_layers: int) -> float:
        """Bytes at the worst moment of a backward pass through the last layer or the last recomputed one."""
        inputs = checkpointed_layers * self.checkpointed
        stored = (self.layers - checkpointed_layers) * self.stored
        last = stored + (BACKWARD - 1) * self.stored if stored else 0.0
        recomputed = BACKWARD * self.stored if checkpointed_layers else 0.0
        return tokens * (inputs + max(last, recomputed) + self.rest) + self.constant

    def without_gradient(self, tokens: int) -> float:
        """Bytes at the worst moment of a forward pass that keeps nothing: at most what one layer would keep, and its input."""
        return tokens * (self.stored + self.checkpointed + self.rest) + self.constant


class Memory(NamedTuple):
    """Memory a row needs, and the free bytes."""

    footprint: Footprint
    free: float

    def fits(self, tokens: int, checkpointed_layers: int) -> bool:
        """Whether a row of `tokens` tokens fits if the first `checkpointed_layers` layers are checkpointed."""
        return self.footprint.peak(tokens, checkpointed_layers) <= self.free

    def layers_to_checkpoint(self, tokens: int) -> int:
        """Smallest number of checkpointed layers with which a row of `tokens` fits; all layers if it never fits."""
        counts = range(self.footprint.layers + 1)
        return next((count for count in counts if self.fits(tokens, count)), self.footprint.layers)


def time_per_token(tokens: int, checkpointed_layers: int, layers: int) -> float:
    """Time of one token in a row of `tokens`, relative to other choices.

    Forward, backward and reference pass take 2 units each with a frozen base, and recomputing all layers takes 2 more.
    Dequantising the base adds the time of `DEQUANTISATION` tokens to every row.
    """
    return (6 + 2 * checkpointed_layers / max(layers, 1)) * (1 + DEQUANTISATION / tokens)


def row_length(memory: Memory, checkpointed_layers: int | None = None) -> int:
    """The row length, in tokens, at which full rows take the least time per token.

    Shorter rows recompute fewer layers, so small steps lose nothing.

    Args:
        memory: Footprint and free bytes.
        checkpointed_layers: Number of recomputed layers, if it is given; otherwise as many as a row needs.
    """
    choices = []
    for tokens in range(STEP, LARGEST_ROW + 1, STEP):
        count = memory.layers_to_checkpoint(tokens) if checkpointed_layers is None else checkpointed_layers
        if memory.fits(tokens, count):
            choices.append((time_per_token(tokens, count, memory.footprint.layers), tokens))
    return min(choices)[1] if choices else STEP


def row_without_gradient(footprint: Footprint, row_tokens: int, checkpointed_layers: int) -> int:
    """The longest row without gradient, in tokens, that needs no more memory than a full row with gradient."""
    most = footprint.peak(row_tokens, checkpointed_layers)
    choices = range(STEP, LONGER * max(row_tokens, STEP) + 1, STEP)
    return max((tokens for tokens in choices if footprint.without_gradient(tokens) <= most), default=STEP)


def in_words(memory: Memory, row_tokens: int, checkpointed_layers: int | None, what: str | None = None) -> str:
    """Describe the memory of a full row, or of `what` with as many tokens, for the log."""
    count = memory.layers_to_checkpoint(row_tokens) if checkpointed_layers is None else checkpointed_layers
    layers = memory.footprint.layers
    where = "off" if not count else f"in all {layers} layers" if count == layers else f"in {count} of {layers} layers"
    need = memory.footprint.peak(row_tokens, count)
    verdict = "" if need <= memory.free else "; this may not fit"
    return (
        f"{what or f'row_tokens {row_tokens:,}'}, gradient checkpointing {where}: about {size_in_words(need)} of {size_in_words(memory.free)} "
        f"free for activations{verdict}"
    )


def size_in_words(count: float) -> str:
    """Bytes with a unit, three digits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
