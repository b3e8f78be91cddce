"""Compute lower bounds on step times from the published peak rates of graphics cards.

Matrix products take 2 operations per weight and token: forward, backward to the inputs (a frozen base needs no other),
again for a checkpointed layer, and once more for a reference that is not cached. A 4-bit base is dequantised once for each
of these passes of each row, bounded by memory bandwidth. Attention, norms, the optimizer and gaps between kernels take
additional time, so a measured step is longer. Half of the peak rates is a good result.
"""

import math
from typing import NamedTuple

from trl_ext.planner.memory import GIB, SEGMENTS, VARLEN, Row, Storage, linear_bytes, trained
from trl_ext.planner.shape import Shape, four_bit_bytes
from trl_ext.support.errors import UserError


class Card(NamedTuple):
    """A graphics card.

    Attributes:
        memory: Memory in GiB.
        rate: Operations per second of dense bfloat16 matrix products with float32 accumulation.
        bandwidth: Memory bandwidth in bytes per second.
        kernel: Attention implementation of packed rows on this card.
    """

    name: str
    memory: float
    rate: float
    bandwidth: float
    kernel: str


CARDS = (
    Card("RTX 3090", 24, 71e12, 936e9, VARLEN),
    Card("RTX 4090", 24, 165.2e12, 1008e9, VARLEN),
    Card("RTX 5090", 32, 209.5e12, 1792e9, VARLEN),
    Card("RX 7900 XTX", 24, 122.8e12, 960e9, SEGMENTS),
    Card("RTX 4080 (16 GB)", 16, 97.5e12, 716.8e9, VARLEN),
)
"""Vendors' figures (GA102, Ada and Blackwell white papers, AMD's product page)."""


CPU = "CPU"
"""The device of runs without a graphics card."""


class Chosen(NamedTuple):
    """The card that a recipe is planned for: its name in sentences, its memory in GiB, and whether it has a name."""

    title: str
    memory: float
    is_named: bool = True

    def is_device(self, device: str) -> bool:
        """Whether a device in a run's environment.json is this card; any card if this one has no name."""
        return device != CPU and (not self.is_named or device.endswith(self.title.partition(" (")[0]))


OTHERWISE = 24.0
"""GiB of the card that is assumed where there is none."""


def choose(name: str | None, vram: float | None) -> Chosen:
    """The card of a name or with so much memory; else that of this computer, or one with `OTHERWISE` GiB.

    Raises:
        UserError: Both are given, or the name is not known.
    """
    if name is not None and vram is not None:
        raise UserError("`--card` and `--vram` both give the memory of the card. Keep one of them.")
    if name is not None:
        return _by_name(name)
    if vram is not None:
        return Chosen(f"one {vram:g} GB card", vram, is_named=False)
    import torch

    if not torch.cuda.is_available():
        return Chosen(f"one {OTHERWISE:g} GB card", OTHERWISE, is_named=False)
    return Chosen(torch.cuda.get_device_name(), round(torch.cuda.get_device_properties(0).total_memory / GIB, 1))


def _by_name(name: str) -> Chosen:
    def plain(text: str) -> str:
        return "".join(character for character in text.lower() if character.isalnum())

    found = [card for card in CARDS if plain(name) and plain(name) in plain(card.name)]
    if not found:
        known = ", ".join(card.name for card in CARDS)
        raise UserError(f"`--card` is {name!r}. Known are {known}. Give the memory of another card with `--vram GIB`.")
    return Chosen(found[0].name, found[0].memory)


class Passes(NamedTuple):
    """Numbers of passes over the examples of a step.

    Attributes:
        reference: 1 if a reference is computed and not cached.
        others: Passes without gradient for baselines, and the second pass of losses that compare examples.
        headless: Passes without gradient and without the LM head: a critic's values, a reward adapter's scores.
        trained: Passes with gradient: 2 if a critic is trained beside the policy.
    """

    reference: int
    others: int
    headless: float = 0
    trained: int = 1


def step_seconds(
    card: Card, shape: Shape, row: Row, storage: Storage, checkpointed_layers: int, tokens: float, passes: Passes
) -> float:
    """Lower bound on the time of one optimizer step, in seconds.

    Args:
        row: The rows of the step.
        checkpointed_layers: Number of layers computed twice.
        tokens: Tokens of the step, all rows together.
    """
    recomputed = checkpointed_layers / shape.layers
    with_head = passes.reference + passes.others
    without_gradient = with_head + passes.headless
    backward = 1 if shape.adapter else 2
    layers = 2 * shape.active * (passes.trained * (1 + backward + recomputed) + without_gradient)
    head = 2 * shape.vocabulary * shape.hidden * row.completion_share * (3 + with_head)
    adapter = 2 * trained(shape) * passes.trained * (3 + recomputed) if shape.adapter else 0
    rows = math.ceil(tokens / row.tokens)
    weights = rows * (passes.trained * (2 + recomputed) + without_gradient) * dequantisation_bytes(shape, storage)
    return tokens * (layers + head + adapter) / card.rate + weights / card.bandwidth


def dequantisation_bytes(shape: Shape, storage: Storage) -> float:
    """Bytes read and written when the base is dequantised once."""
    if storage.bits == 16:
        return 0
    if storage.scheme is not None:
        return linear_bytes(shape, storage) + 2 * shape.quantised
    if storage.bits == 8:
        return 3 * shape.quantised
    return sum(count * (four_bit_bytes(size, storage.is_double) + 2 * size) for size, count in shape.in_4_bits())
