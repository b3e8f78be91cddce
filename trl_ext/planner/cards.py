"""How long a step takes at least, on cards people have: published peak rates, and nothing else.

Matrix products take 2 operations per weight and token: forward, backward to the inputs (a frozen base needs no other),
again where a layer is recomputed, and once more for a reference that is not cached. A 4-bit base is dequantised once
for each of those passes of each row, which the memory's bandwidth bounds. Attention, norms, the optimizer and every
gap between kernels come on top, so a measured step is longer: about half of the peak rates is good work.
"""

import math
from typing import NamedTuple

from trl_ext.planner.memory import SEGMENTS, VARLEN, Row, Storage, trained
from trl_ext.planner.shape import Shape, four_bit_bytes


class Card(NamedTuple):
    """A graphics card.

    Attributes:
        memory: GiB.
        rate: Operations a second of bfloat16 matrix products that accumulate in float32, without sparsity.
        bandwidth: Bytes a second between its memory and its cores.
        kernel: How the attention of packed rows runs on it.
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
"""The vendors' figures (GA102, Ada and Blackwell white papers, AMD's product page). The only rates anywhere."""


class Passes(NamedTuple):
    """How often a step passes over the model without gradient.

    Attributes:
        reference: 1 if a reference is computed and not cached.
        others: Baselines and the second run of losses that compare examples.
    """

    reference: int
    others: int


def step_seconds(
    card: Card, shape: Shape, row: Row, storage: Storage, checkpointed_layers: int, tokens: float, passes: Passes
) -> float:
    """Floor of one optimizer step.

    Args:
        row: What the step's tokens are cut into.
        checkpointed_layers: Layers computed twice.
        tokens: Computed in the step, all rows together.
    """
    recomputed = checkpointed_layers / shape.layers
    without_gradient = passes.reference + passes.others
    backward = 1 if shape.adapter else 2
    layers = 2 * shape.active * (1 + backward + recomputed + without_gradient)
    head = 2 * shape.vocabulary * shape.hidden * row.completion_share * (3 + without_gradient)
    adapter = 2 * trained(shape) * (3 + recomputed) if shape.adapter else 0
    rows = math.ceil(tokens / row.tokens)
    weights = rows * (2 + recomputed + without_gradient) * dequantisation_bytes(shape, storage)
    return tokens * (layers + head + adapter) / card.rate + weights / card.bandwidth


def dequantisation_bytes(shape: Shape, storage: Storage) -> float:
    """Bytes read and written to dequantise the base once."""
    if storage.bits == 16:
        return 0
    stored = sum(count * four_bit_bytes(elements, storage.is_double) for elements, count in shape.linear)
    return (stored if storage.bits == 4 else shape.quantised) + 2 * shape.quantised
