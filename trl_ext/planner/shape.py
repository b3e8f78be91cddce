"""Describe a model by the numbers its memory depends on: decoder layers, parameters, adapter."""

import math
from dataclasses import dataclass

NF4_BLOCK, ABSMAX_BLOCK = 64, 256
"""Weights that share one scale, and scales that share one scale of theirs, in bitsandbytes."""


@dataclass(frozen=True)
class Readers:
    """Numbers of trained linear modules of a layer by the tensor they read and store for their backward pass.

    Attributes:
        attention_input: How many of q, k and v are trained.
        attention_output: 1 if o is trained.
        mlp_input: How many of gate and up are trained.
        mlp_product: 1 if down is trained.
    """

    attention_input: int
    attention_output: int
    mlp_input: int
    mlp_product: int


@dataclass(frozen=True)
class Adapter:
    """LoRA on one model.

    Attributes:
        rank: Rank r.
        parameters: Trained weights of all modules.
        layer_linears: Linear modules of one decoder layer that have a LoRA.
        layer_parameters: Trained weights in one decoder layer.
        expert_inputs, expert_products: 1 if the first and the last fused weight of a layer's experts have a LoRA.
    """

    rank: int
    parameters: int
    layer_linears: int
    layer_parameters: int
    expert_inputs: int = 0
    expert_products: int = 0


@dataclass(frozen=True)
class Shape:
    """A causal language model as the memory formulas see it; widths are numbers of features.

    Attributes:
        layers: Decoder layers.
        hidden: Width of the residual stream, H.
        query, key_value: Heads times their width; `heads` query heads of width `head_width`.
        up: Outputs of the MLP's first projections together: 2·I if gated, else I; in a mixture of experts, those of the
            experts of a token.
        product: Inputs of the MLP's last projection, I.
        normed: Widths of all norms in a layer, summed.
        norms: Statistics stored by a layer's norms per token: one per norm, one per head if heads are normalised.
        is_pre_norm: Whether attention reads a normalised input, not the residual stream itself.
        is_post_norm: Whether the MLP's output is normalised before it is added to the residual stream.
        vocabulary: Rows of the LM head, V.
        mask_kinds: Number of different attention masks (full, sliding) in padded rows.
        parameters: All parameters.
        linear: Linear modules that bitsandbytes quantises, as (elements, number of such modules).
        linear_width: Sum of their outputs (8-bit weights have one scale per output).
        expert_weights: Fused weights of experts that are stored in 4 bits (`trl_ext.experts`), as (elements, number).
        embedding, head, experts, vision: Parameters outside `linear` by kind; a tied head counts 0. `experts` counts all 3-D
            parameters, `expert_weights` among them.
        adapter: LoRA, or `None` if all weights are trained.
        readers: Tensors read by the trained linear modules of a layer.
        linear_inputs: Sum of their inputs.
        shares_inputs: Whether trained modules with the same input store it once. PEFT's own LoRA on an unquantised layer
            casts its input to float32 and stores its own copy.
        norm_offset: c of the fused RMSNorms (`trl_ext.fused.norm`); `None` if the norms are those of transformers.
        is_mlp_fused: Whether the product of a gated MLP is that of `trl_ext.fused.swiglu`.
        gate_copies: Tensors as wide as the product that a gate stores besides the projections: 1 if it is an activation of one
            of them.
        is_eager: Whether the model has no other attention in padded rows than `eager`.
        score_bytes: Bytes that eager attention stores of each score. It stores the scores and their softmax in float32 and 16 bits;
            with a tanh cap also its output; with attention sinks only the 16-bit softmax.
        cannot_pack: Why the trainer will compute padded rows; `None` if it packs.
        experts_per_token: Experts per token; 0 for a dense model.
        router_aux_loss_coef: Weight of the load-balancing loss that the model's configuration names; 0 without such a loss.
        active: Parameters of the decoder layers' matrices used per token.
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
    expert_weights: tuple[tuple[int, int], ...]
    embedding: int
    head: int
    experts: int
    vision: int
    adapter: Adapter | None
    readers: Readers
    shares_inputs: bool
    norm_offset: float | None
    is_mlp_fused: bool
    gate_copies: int
    is_eager: bool
    score_bytes: int
    cannot_pack: str | None
    experts_per_token: int
    router_aux_loss_coef: float
    active: int
    linear_inputs: int = 0

    @property
    def is_gated(self) -> bool:
        """Whether the MLP multiplies two projections."""
        return self.up == 2 * self.product

    @property
    def quantised(self) -> int:
        """Parameters of the linear layers that bitsandbytes stores in 4 or 8 bits."""
        return sum(elements * count for elements, count in self.linear)

    @property
    def fused(self) -> int:
        """Parameters of experts that are stored in 4 bits."""
        return sum(elements * count for elements, count in self.expert_weights)

    def in_4_bits(self) -> tuple[tuple[int, int], ...]:
        """All weights that are stored in 4 bits, as (elements, number)."""
        return self.linear + self.expert_weights

    @property
    def kept(self) -> int:
        """Parameters outside the linear layers: embeddings, norms, the head, experts."""
        return self.parameters - self.quantised


def four_bit_bytes(elements: int, double: bool) -> int:
    """Bytes of one NF4 or FP4 tensor of bitsandbytes: half a byte each, a scale per block of 64, code books.

    Args:
        elements: Elements of the weight matrix.
        double: Whether the scales are themselves quantised to 8 bits (double or nested quantisation).
    """
    blocks = math.ceil(elements / NF4_BLOCK)
    scales = blocks + 4 * (math.ceil(blocks / ABSMAX_BLOCK) + 256 + 1) if double else 4 * blocks
    return math.ceil(elements / 2) + scales + 16 * 4
