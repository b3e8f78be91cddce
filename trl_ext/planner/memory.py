"""Compute the GPU memory of a training step from a `Shape`, in bytes, without importing torch.

Activations are the tensors that each operation stores for its backward pass under autocast with bfloat16 products:

* a fused norm stores its input and, if PyTorch has a kernel for it, a float32 statistic; a norm of transformers stores its input
  in float32, whatever the dtype of the model;
* a LoRA stores its input and r numbers; a frozen linear layer, quantised or not, stores nothing;
* rotary embeddings store nothing; attention stores queries, keys, values, output and one float32 statistic per head;
* a gated MLP stores both projections, the product if a LoRA reads it, and the activated gate unless it is fused.

A checkpointed layer stores only its input and is recomputed in the backward pass. The first k of L layers are
checkpointed, so the activations of the others are freed before recomputation begins. The peak is the largest of a few
moments (`moments`). Each formula is tested against the real model on fake tensors (`trl_ext.planner.dry_run`).
"""

from dataclasses import dataclass

from trl_ext.planner import divergences
from trl_ext.planner.shape import Shape, four_bit_bytes
from trl_ext.planner.stored import Scheme

GIB = 2**30

VARLEN, SEGMENTS, SDPA, EAGER = "varlen", "segments", "sdpa", "eager"

HEAD_TOKENS, HEAD_VOCABULARY = 4096, 32768
"""Block of logits in memory at a time in TRL's fused LM head, in the compute dtype."""
GROWING_CACHE = 1.5
"""Memory of a KV cache that grows by concatenation ÷ its final bytes. Each token makes larger tensors, for which the freed ones
are too small. A simulation of PyTorch's allocator for caches of 1 to 8 GiB needs up to 1.33 if nothing else is allocated."""
NORM_BACKWARD, FUSED_NORM_BACKWARD = 5, 3
"""Float32 tensors of the norm's width alive at the peak of its backward pass, besides its input: in that of transformers, and in
the one of `trl_ext.fused.norm`, without PyTorch's kernel and besides the gradient."""
OPTIMIZER_BYTES = {"8bit": 2.03, "sgd": 0.0, "adafactor": 0.5, "lion": 4.0}
"""Bytes of state per trained weight, by a part of the optimizer's name; 8 (two float32 moments) if none matches."""


@dataclass(frozen=True)
class Row:
    """One forward and backward pass.

    Attributes:
        tokens: Tokens T, padding included.
        completion_share: Share of the tokens that reaches the LM head.
        keys_per_token: Keys that attention gathers per token of a packed row: above 1 if completions share a prompt.
        kernel: `varlen` or `segments` for packed rows, `sdpa` or `eager` for padded rows.
        width: Length of a padded sequence; 0 for a packed row.
        activation: Bytes of a number in the residual stream, by the model's dtype.
        cached_tokens: Tokens in the KV cache while completions are sampled; 0 if none are sampled.
        is_cache_static: Whether the KV cache has its final size from the beginning.
        engine: Bytes of an inference engine that are taken only while completions are sampled.
        reads_distributions: Whether the loss compares the next-token distributions of policy and reference.
    """

    tokens: int
    completion_share: float = 0.6
    keys_per_token: float = 1.8
    kernel: str = VARLEN
    width: int = 0
    activation: int = 2
    cached_tokens: int = 0
    is_cache_static: bool = False
    engine: float = 0.0
    reads_distributions: bool = False


@dataclass(frozen=True)
class Storage:
    """How weights and their training state are stored.

    Attributes:
        bits: 4 or 8 if bitsandbytes quantises the linear layers, those of a stored checkpoint, else 16.
        scheme: How a checkpoint that is stored quantised, and trained so, stores its linear layers.
        is_double: Whether 4-bit scales are quantised, too.
        weight: Bytes of an unquantised weight.
        trained: Bytes of a trained weight, and also of its gradient.
        optimizer: Name of the optimizer, as in `optim`.
        copies: Number of whole models: 2 if full fine-tuning needs a separate reference.
        trained_adapters: Number of trained adapters: 2 if a critic has its own.
        frozen_adapters: Number of additional frozen adapters (a reference's, a reward model's).
    """

    bits: int = 4
    is_double: bool = True
    weight: int = 2
    trained: int = 4
    optimizer: str = "adamw_torch"
    copies: int = 1
    trained_adapters: int = 1
    frozen_adapters: int = 0
    scheme: Scheme | None = None


def weights(shape: Shape, storage: Storage) -> dict[str, float]:
    """Bytes of the base model by part. Linear layers are quantised, in 4 bits also the experts of a mixture."""
    fused = storage.weight * shape.fused
    if storage.bits == 4 and storage.scheme is None:
        fused = sum(count * four_bit_bytes(elements, storage.is_double) for elements, count in shape.expert_weights)
    rest = shape.kept - shape.embedding - shape.head - shape.experts
    parts = {
        "linear layers": linear_bytes(shape, storage),
        "experts": fused + storage.weight * (shape.experts - shape.fused),
        "embeddings": storage.weight * shape.embedding,
        "LM head": storage.weight * shape.head,
        "norms and the rest": storage.weight * rest,
    }
    return {name: storage.copies * size for name, size in parts.items()}


def linear_bytes(shape: Shape, storage: Storage) -> float:
    """Bytes of the linear layers of one model."""
    if storage.scheme is not None:
        return storage.scheme.linear_bytes(shape)
    if storage.bits == 4:
        return sum(count * four_bit_bytes(elements, storage.is_double) for elements, count in shape.linear)
    return shape.quantised + 4 * shape.linear_width if storage.bits == 8 else storage.weight * shape.quantised


def merged_copy(shape: Shape, storage: Storage, weight: int = 2) -> float:
    """Bytes of a copy of the base with the adapter merged in, from which completions are sampled.

    It shares embeddings, norms and the head with the base if both store them in as many bytes; a copy in float32, which is on a CPU,
    has its own head. All linear layers are counted, an upper bound where an unquantised base has an adapter on some of them.

    Args:
        weight: Bytes of a weight of the copy.
    """
    quantised = shape.quantised + (shape.fused if storage.bits == 4 else 0)
    own_head = shape.head if weight == 4 else 0
    return weight * (quantised + own_head if storage.weight == weight else shape.parameters)


def trained(shape: Shape) -> int:
    """Number of trained weights: the adapter's, or all."""
    return shape.adapter.parameters if shape.adapter else shape.parameters


def training_state(shape: Shape, storage: Storage) -> dict[str, float]:
    """Bytes of the adapters, the gradients and the optimizer's state. Without an adapter the weights are `weights`."""
    count = trained(shape) * storage.trained_adapters
    frozen = trained(shape) * storage.frozen_adapters
    return {
        "LoRA weights": (count + frozen) * storage.trained if shape.adapter else 0,
        "gradients": count * storage.trained,
        "optimizer": count * optimizer_bytes(storage.optimizer),
    }


def optimizer_bytes(name: str) -> float:
    """Bytes of optimizer state per trained weight."""
    return next((size for part, size in OPTIMIZER_BYTES.items() if part in name), 8.0)


def residue_per_token(shape: Shape, row: Row) -> float:
    """Bytes stored by a checkpointed layer per token: its input."""
    return row.activation * shape.hidden


def stored_per_token(shape: Shape, row: Row) -> float:
    """Bytes stored per token for the backward pass by a layer that is not checkpointed."""
    ranks = 2 * shape.adapter.rank * shape.adapter.layer_linears if shape.adapter else 0
    norms = _norm(shape, row) * shape.normed + (0 if shape.norm_offset else 4 * shape.norms)
    if shape.adapter is None and shape.norm_offset is None:
        norms += row.activation * shape.normed  # for the gradient of the norm's weight
    return _mlp(shape, row) + _attention(shape, row) + norms + _inputs(shape, row) + _experts(shape, row) + ranks


def stored_once(shape: Shape, storage: Storage) -> float:
    """Bytes stored per layer independent of the row: autocast's 16-bit copies of float32 weights."""
    per_layer = shape.adapter.layer_parameters if shape.adapter else shape.quantised / shape.layers
    return 2 * per_layer if storage.trained == 4 else 0


def outside_per_token(shape: Shape, row: Row) -> float:
    """Bytes stored per token outside the layers: the final norm's input, the states read by the LM head."""
    norm = _norm(shape, row) * shape.hidden
    return norm + row.activation * row.completion_share * shape.hidden + _shared(shape, row)


def head(shape: Shape, row: Row, storage: Storage) -> float:
    """Bytes of the fused LM head's backward pass: a block of logits, and its input's gradient in float32 and 16 bits."""
    scored = row.completion_share * row.tokens
    block = 2 * min(scored, HEAD_TOKENS) * HEAD_VOCABULARY
    cast = 2 * min(shape.vocabulary, HEAD_VOCABULARY) * shape.hidden if storage.weight == 4 else 0
    own = 4 * shape.vocabulary * shape.hidden if shape.adapter is None else 0  # the gradient of its weight
    return block + cast + own + 6 * scored * shape.hidden


def dequantised(shape: Shape, storage: Storage) -> float:
    """Bytes of the largest weight matrix in 16 bits, and also in the model's dtype if it differs; its gradient if trained."""
    if storage.bits == 16 and shape.adapter:
        return 0
    sizes = shape.in_4_bits() if storage.bits == 4 else shape.linear
    return {2: 2, 4: 6}[storage.weight] * max((elements for elements, _ in sizes), default=0)


def kv_cache_per_token(shape: Shape) -> float:
    """Bytes of the keys and values of one token in all layers, in 16 bits."""
    return 4 * shape.layers * shape.key_value


def moments(shape: Shape, row: Row, storage: Storage, checkpointed_layers: int) -> dict[str, dict[str, float]]:
    """Bytes alive besides weights and training state, by moment of a step and by kind.

    Args:
        checkpointed_layers: Number of first layers that store only their inputs.
    """
    tokens, recomputed = row.tokens, checkpointed_layers
    stored = stored_per_token(shape, row) * tokens + stored_once(shape, storage)
    residue = {"inputs of checkpointed layers": recomputed * residue_per_token(shape, row) * tokens}
    kept = residue | {"stored activations": (shape.layers - recomputed) * stored}
    outside = {"activations outside the layers": outside_per_token(shape, row) * tokens}
    final_norm = _norm_backward(shape, row) * tokens - divergences.states(shape, row)  # which are freed
    found = {
        "the LM head's backward pass": kept | outside | {"LM head": head(shape, row, storage)},
        "the final norm's backward pass": kept | outside | {"backward pass of the norm": final_norm},
    }
    if row.reads_distributions:
        found["the LM head's backward pass"]["gradient of the divergences"] = divergences.states(shape, row)
        found["the divergences from the reference"] = kept | outside | divergences.parts(shape, row, storage)
    if row.cached_tokens:
        growth = 1.0 if row.is_cache_static else GROWING_CACHE
        found["the sampling of completions"] = {"KV cache": growth * kv_cache_per_token(shape) * row.cached_tokens}
    if row.engine:
        found["the sampling of completions"] = {"vLLM": row.engine}
    during = {"activations outside the layers": _shared(shape, row) * tokens} | _layer_backward(shape, row, storage)
    if recomputed < shape.layers:
        found["the last layer's backward pass"] = kept | during
    if recomputed:
        # When the first layer is recomputed, the activations of the later layers are already freed.
        # Its own input is among `residue`, and is stored once.
        stores_input = not shape.is_pre_norm or shape.norm_offset is not None
        again = stored - (residue_per_token(shape, row) * tokens if stores_input else 0)
        found["a recomputed layer's backward pass"] = residue | {"recomputed layer": again} | during
    return found


def activations(shape: Shape, row: Row, storage: Storage, checkpointed_layers: int) -> tuple[str, dict[str, float]]:
    """The moment with the most bytes alive, and these bytes by kind."""
    found = moments(shape, row, storage, checkpointed_layers)
    return max(found.items(), key=lambda item: sum(item[1].values()))


def peak(shape: Shape, row: Row, storage: Storage, checkpointed_layers: int) -> float:
    """Maximum bytes of tensors alive in a training step, without the allocator's overhead and the CUDA context."""
    static = sum(weights(shape, storage).values()) + sum(training_state(shape, storage).values())
    return static + sum(activations(shape, row, storage, checkpointed_layers)[1].values())


def _norm(shape: Shape, row: Row) -> float:
    """Bytes that a norm stores of a number of its input."""
    return 4 if shape.norm_offset is None else row.activation


def _norm_backward(shape: Shape, row: Row) -> float:
    """Bytes per token at the peak of a norm's backward pass, besides its input."""
    if shape.norm_offset is None:
        return 4 * NORM_BACKWARD * shape.hidden
    if shape.norm_offset == 0:  # PyTorch's kernel: the gradients of output and input
        return 2 * row.activation * shape.hidden
    return (4 * FUSED_NORM_BACKWARD + row.activation) * shape.hidden


def _inputs(shape: Shape, row: Row) -> float:
    """16-bit inputs of the trained linear modules, except of the MLP's last and those that attention stores anyway."""
    readers = shape.readers
    if shape.shares_inputs and row.activation == 2:
        return 2 * shape.hidden * (min(readers.attention_input, 1) + min(readers.mlp_input, 1))
    output = 0 if shape.shares_inputs else 2 * shape.query * readers.attention_output
    return 2 * shape.hidden * (readers.attention_input + readers.mlp_input) + output


def _mlp(shape: Shape, row: Row) -> float:
    gate = row.activation * shape.product * shape.gate_copies if shape.is_gated and not shape.is_mlp_fused else 0
    return row.activation * shape.up + gate + 2 * shape.product * shape.readers.mlp_product


def _experts(shape: Shape, row: Row) -> float:
    """Bytes of the experts of a token, besides their projections: their outputs, and what a LoRA on them reads."""
    chosen, adapter = shape.experts_per_token, shape.adapter
    outputs = row.activation * shape.hidden * chosen
    if adapter is None:
        return outputs + row.activation * (shape.hidden * chosen + shape.product)
    inputs = 2 * shape.hidden * chosen * adapter.expert_inputs + 2 * shape.product * adapter.expert_products
    return outputs + inputs + 2 * adapter.rank * chosen * (adapter.expert_inputs + adapter.expert_products)


def _attention(shape: Shape, row: Row) -> float:
    statistics = 4 * shape.heads
    if row.kernel == VARLEN:
        return 4 * shape.query + 4 * row.keys_per_token * shape.key_value + statistics
    if row.kernel == SEGMENTS:
        return 6 * shape.query + 4 * row.keys_per_token * shape.query + statistics
    if row.kernel == SDPA:
        return 8 * shape.query + statistics + 2 * row.width
    return 8 * shape.query + shape.score_bytes * shape.heads * row.width


def _shared(shape: Shape, row: Row) -> float:
    """Rotary sines and cosines, and the masks of padded rows, which all layers share."""
    masks = 3 * row.width * shape.mask_kinds
    return 4 * shape.head_width + masks


def _layer_backward(shape: Shape, row: Row, storage: Storage) -> dict[str, float]:
    """Bytes at the peak of a layer's backward pass besides the layer's stored activations."""
    tokens, hidden = row.tokens, shape.hidden
    incoming = row.activation * hidden
    # With a norm after the MLP, the norm's stored input is freed, and its gradient is not the residual's.
    gradients = (2 * incoming - _norm(shape, row) * hidden if shape.is_post_norm else incoming) * tokens
    matrix = dequantised(shape, storage)
    found = [
        {"backward pass of a layer": gradients + row.activation * shape.up * tokens},
        {
            "backward pass of a layer": gradients + row.activation * shape.product * tokens,
            "dequantised weights": matrix,
        },
        {"backward pass of a layer": (_norm_backward(shape, row) + incoming) * tokens},
    ]
    if not shape.is_post_norm:  # when the backward pass reaches a norm, the MLP is freed
        found[-1]["backward pass of a layer"] -= _mlp(shape, row) * tokens
    if (
        not shape.shares_inputs
    ):  # in the forward pass, the LoRA on the last projection casts its input to float32 and back
        found.append({"backward pass of a layer": (6 * shape.product + 3 * incoming) * tokens})
    if shape.experts_per_token:
        found[:2] = _experts_moments(shape, row, storage, gradients)
    if row.kernel == EAGER:
        scores = 6 * shape.heads * row.width * tokens
        found.append({"backward pass of a layer": scores - (_mlp(shape, row) + 8 * hidden) * tokens})
    return max(found, key=lambda moment: sum(moment.values()))


def _experts_moments(shape: Shape, row: Row, storage: Storage, gradients: float) -> list[dict[str, float]]:
    """Bytes at the moments of a layer of experts, besides the layer's stored activations.

    When the layer is recomputed, the gradient of the experts' outputs is already there. Then come the first projection (its input,
    its output and its weight), the last one (also the activated gate and the product), and the backward pass of the weighted sum
    (three tensors like the experts' outputs).
    """
    outputs = row.activation * shape.hidden * shape.experts_per_token
    product = row.activation * shape.product
    stored = _mlp(shape, row) + _experts(shape, row)
    sizes = shape.expert_weights if storage.bits == 4 else ()
    first, last = (2 * pick((size for size, _ in sizes), default=0) for pick in (max, min))
    kept = stored - outputs + product  # at the last projection
    moments = [(2 * outputs + 2 * product, first), (2 * outputs + kept, last), (stored + 3 * outputs, 0)]
    return [
        {"experts of a layer, dequantised": gradients + (alive - stored) * row.tokens + weight}
        for alive, weight in moments
    ]
