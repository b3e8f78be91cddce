"""What the memory of a model depends on, as plain numbers: its decoder layers, its parameters, its adapter."""

import math
from dataclasses import dataclass

NF4_BLOCK, ABSMAX_BLOCK = 64, 256
"""Weights that share one scale, and scales that share one scale of theirs, in bitsandbytes."""


@dataclass(frozen=True)
class Readers:
    """How many trained linear modules of a layer read what, and so keep it for their backward pass.

    Attributes:
        attention_input: Of q, k and v.
        attention_output: 1 if o does.
        mlp_input: Of gate and up.
        mlp_product: 1 if down does.
    """

    attention_input: int
    attention_output: int
    mlp_input: int
    mlp_product: int


@dataclass(frozen=True)
class Adapter:
    """LoRA on one model.

    Attributes:
        rank: r.
        parameters: Trained weights, all modules together.
        layer_linears: Linear modules of one decoder layer that carry one.
        layer_parameters: Trained weights in one decoder layer.
    """

    rank: int
    parameters: int
    layer_linears: int
    layer_parameters: int


@dataclass(frozen=True)
class Shape:
    """A causal language model as the memory formulas see it; widths are numbers of features.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream, H.
        query, key_value: Heads times their width; `heads` query heads of width `head_width`.
        up: Outputs of the MLP's first projections together: 2·I where gated, else I; of a mixture of experts, those
            a token passes through.
        product: Inputs of the MLP's last projection, I.
        normed: Widths of all norms in a layer, summed.
        norms: Statistics a layer's norms keep per token: one per norm, one per head where heads are normalised.
        is_pre_norm: Attention reads a normalised input, not the residual stream itself.
        is_post_norm: The MLP's output is normalised before it joins the residual stream.
        vocabulary: Rows of the LM head, V.
        mask_kinds: Different attention masks (full, sliding) where masks are built.
        parameters: All of them.
        linear: Linear modules bitsandbytes quantises, as (elements, how many such).
        linear_width: Outputs of those, summed (8-bit weights have one scale each).
        largest_linear: Elements of the largest of them.
        embedding, head, experts, vision: Parameters outside `linear` by what they are; a tied head counts none.
        adapter: LoRA, or `None` if all weights are trained.
        readers: What the trained linear modules of a layer read.
        shares_inputs: Trained modules with one input keep it once. PEFT's LoRA on a layer that is not quantised casts
            its input to float32 and keeps a copy of its own.
        has_softcap: Attention logits are capped by a tanh.
        cannot_pack: Why the trainer will compute padded rows, or `None`.
        experts_per_token: Experts a token passes through; 0 for a dense model.
        active: Parameters of the decoder layers' matrices that a token is multiplied with.
    """

    layers: int
    hidden: int
    query: int
    key_value: int
    heads: int
    head_width: int
    up: int
    product: int
    normed: int
    norms: int
    is_pre_norm: bool
    is_post_norm: bool
    vocabulary: int
    mask_kinds: int
    parameters: int
    linear: tuple[tuple[int, int], ...]
    linear_width: int
    largest_linear: int
    embedding: int
    head: int
    experts: int
    vision: int
    adapter: Adapter | None
    readers: Readers
    shares_inputs: bool
    has_softcap: bool
    cannot_pack: str | None
    experts_per_token: int
    active: int

    @property
    def is_gated(self) -> bool:
        """Whether the MLP multiplies two projections."""
        return self.up == 2 * self.product

    @property
    def quantised(self) -> int:
        """Parameters bitsandbytes stores in 4 or 8 bits."""
        return sum(elements * count for elements, count in self.linear)

    @property
    def kept(self) -> int:
        """The others: embeddings, norms, the head, experts stored as one 3-D tensor."""
        return self.parameters - self.quantised


def four_bit_bytes(elements: int, double: bool) -> int:
    """Bytes of one NF4 or FP4 tensor of bitsandbytes: half a byte each, a scale per block of 64, code books.

    Args:
        elements: Of the weight matrix.
        double: Whether the scales are themselves quantised to 8 bits (double or nested quantisation).
    """
    blocks = math.ceil(elements / NF4_BLOCK)
    scales = blocks + 4 * (math.ceil(blocks / ABSMAX_BLOCK) + 256 + 1) if double else 4 * blocks
    return math.ceil(elements / 2) + scales + 16 * 4
