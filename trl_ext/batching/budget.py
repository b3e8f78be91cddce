"""How long rows may be, and how many layers must be recomputed, for a step to fit its memory and take least time.

A layer that is checkpointed keeps its input alone and is computed a second time in the backward pass; one that is not
keeps everything its backward pass reads. Checkpointing the first layers is best: by the time they are recomputed, what
the later ones kept is free again.
"""

from typing import NamedTuple

LARGEST_ROW = 4096
"""Tokens of a row beyond which nothing is gained: a 4-bit base is dequantised once per row, in about the time that
`DEQUANTISATION` tokens take."""
DEQUANTISATION = 230
BACKWARD = 1.4
"""What the backward pass of a layer holds at its worst moment, in units of what the layer keeps for it."""
STEP = 256
"""Rows are a multiple of this many tokens, so that a little more or less free memory changes nothing."""


class Footprint(NamedTuple):
    """Bytes kept for the backward pass.

    Attributes:
        stored: Per token, in a layer that is not checkpointed.
        checkpointed: Per token, in one that is: its input.
        rest: Per token, outside the layers: embeddings, final norm, LM head.
        constant: However many tokens there are: weights cast for autocast, for instance.
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


class Memory(NamedTuple):
    """What a row needs, and the bytes there are for it."""

    footprint: Footprint
    free: float

    def fits(self, tokens: int, checkpointed_layers: int) -> bool:
        """Whether a row of so many tokens fits with the first `checkpointed_layers` layers recomputed."""
        return self.footprint.peak(tokens, checkpointed_layers) <= self.free

    def layers_to_checkpoint(self, tokens: int) -> int:
        """Fewest layers that must be recomputed for a row of `tokens` to fit; all where it does not even then."""
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


def in_words(memory: Memory, row_tokens: int, checkpointed_layers: int | None) -> str:
    """What a full row takes, for the log."""
    count = memory.layers_to_checkpoint(row_tokens) if checkpointed_layers is None else checkpointed_layers
    layers = memory.footprint.layers
    recomputed = (
        "no layer" if not count else f"all {layers} layers" if count == layers else f"{count} of {layers} layers"
    )
    need = memory.footprint.peak(row_tokens, count)
    verdict = "" if need <= memory.free else ", so it may not fit"
    return (
        f"rows of at most {row_tokens:,} tokens; a full one recomputes {recomputed} and takes about {_size(need)} of the "
        f"{_size(memory.free)} left for activations{verdict}"
    )


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
