"""Keep the keys and values of a prompt once for all completions that are sampled after it, and read them once per token.

A step of sampling reads the keys and values of every row. Copied for each completion, those of the prompt are most of them. Here
the queries of all completions of a prompt are multiplied by its keys together, and by the keys of their own completion alone
(Juravsky et al. 2024, "Hydragen: High-Throughput LLM Inference with Shared Prefixes", arXiv:2402.05099).

Only on a CPU, where a step takes as long as reading memory. On a GPU small batches wait for kernels to start, of which this takes more.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trl_ext.batching import attention
from trl_ext.batching.attention import KNOWN_ARGUMENTS
from trl_ext.trainers.rollout.preallocated_cache import PreallocatedLayer

PREFIX = "trl_ext_shared_prompts"  # followed by the implementation that is used otherwise
SUPPORTED = {"sdpa", "eager"}
"""Implementations whose masks are tensors on queries and keys, and that compute plain attention."""


@dataclass
class Reading:
    """What attention reads while a model generates.

    Attributes:
        keys: That the model gives to plain attention while its prompts run; `None` before and after.
        layers: Whose prompts are kept once.
    """

    keys: list[Tensor] | None = None
    layers: list["SharedPromptLayer"] = field(default_factory=list)

    def layer_of(self, keys: Tensor) -> "SharedPromptLayer | None":
        return next((layer for layer in self.layers if layer.keys is keys), None)


_READING: contextvars.ContextVar[Reading | None] = contextvars.ContextVar("reading", default=None)


class SharedPromptLayer(PreallocatedLayer):
    """A layer of a cache whose rows are completions. `keys` and `values` are those of the completions.

    Args:
        layer: With the keys and values of the prompts, (P, heads, T, head size).
        prompts: (P,) the rows of `layer` in the order of their completions.
        completions: Of each prompt.
        length: Tokens of a completion that there is room for.
    """

    def __init__(self, layer: DynamicLayer, prompts: Tensor, completions: int, length: int) -> None:
        self.prompt_keys, self.prompt_values = layer.keys[prompts], layer.values[prompts]
        nothing = DynamicLayer()
        nothing.lazy_initialization(layer.keys, layer.values)
        nothing.keys, nothing.values = layer.keys[:, :, :0], layer.values[:, :, :0]
        super().__init__(nothing, prompts.repeat_interleave(completions), length)

    def get_seq_length(self) -> int:
        return self.prompt_keys.size(2) + self.keys.size(2)

    def whole(self) -> tuple[Tensor, Tensor]:
        """Keys and values of prompts and completions, (B, heads, T, head size), as attention on copied prompts reads them."""
        times = len(self.keys) // len(self.prompt_keys)
        pairs = (self.prompt_keys, self.keys), (self.prompt_values, self.values)
        keys, values = (torch.cat([prompt.repeat_interleave(times, 0), own], 2) for prompt, own in pairs)
        return keys, values


@contextlib.contextmanager
def readable(model: nn.Module) -> Iterator[Reading | None]:
    """Context in which prompts that are kept once can be read; `None` for a model or a device where they cannot."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    usual = attention.ordinary(before)
    if model.device.type != "cpu" or usual not in SUPPORTED or not model._can_set_attn_implementation():
        yield None
        return
    reading = Reading()
    token = _READING.set(reading)
    attention.switch_back(model, _registered(usual))
    try:
        yield reading
    finally:
        attention.switch_back(model, before)
        _READING.reset(token)


@contextlib.contextmanager
def prompts_of(reading: Reading | None) -> Iterator[Reading]:
    """Context in which the prompts run: the keys that attention is given are recorded."""
    reading = reading or Reading()
    reading.keys = []
    try:
        yield reading
    finally:
        reading.keys = None


def keep_once(cache: DynamicCache, rows: Tensor, length: int, reading: Reading) -> bool:
    """Keep the prompts of a cache once, if its rows and the model allow it. Returns whether they do.

    Args:
        cache: Of the prompts, which ran in the context `prompts_of`.
        rows: (B,) the row of the cache that each completion continues.
        length: Tokens of a completion that there is room for.
        reading: Of that context, in which this is called.
    """
    seen = {id(keys) for keys in reading.keys}
    if not all(type(layer) is DynamicLayer and id(layer.keys) in seen for layer in cache.layers):
        return False
    completions = len(rows) // len(cache.layers[0].keys)
    prompts = rows[::completions]
    if not torch.equal(prompts.repeat_interleave(completions), rows):
        return False
    reading.layers = [SharedPromptLayer(layer, prompts, completions, length) for layer in cache.layers]
    cache.layers = list(reading.layers)
    return True


def _registered(usual: str) -> str:
    """Register attention that reads prompts kept once, and is `usual` otherwise. Returns its name."""
    name = f"{PREFIX}_{usual}"
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():

        def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any):
            reading = _READING.get()
            layer = reading and reading.layer_of(key)
            if layer is not None:
                is_for_all_heads = mask is None or mask.size(1) == 1
                if query.size(2) == 1 and is_for_all_heads and _is_plain(**kwargs):
                    return _shared(query, layer, mask, kwargs.get("scaling")), None
                key, value = layer.whole()
            elif reading and reading.keys is not None and _is_plain(**kwargs):
                reading.keys.append(key)
            return attention.function_of(module, usual)(module, query, key, value, mask, **kwargs)

        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[usual])
    return name


def _is_plain(dropout: float = 0.0, scaling: float | None = None, **kwargs: Any) -> bool:
    """Whether nothing but a mask and the scaling changes attention. A window is in the mask."""
    others = (value for name, value in kwargs.items() if name not in KNOWN_ARGUMENTS | {"sliding_window"})
    return not dropout and all(value is None or value is False for value in others)


def _shared(query: Tensor, layer: SharedPromptLayer, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Attention of one token of each completion on its prompt and its completion.

    Args:
        query: (B, heads, 1, head size).
        mask: (B, 1, 1, T), boolean or added to the scores.
        scaling: Of the scores; `None` for 1 / √(head size).

    Returns:
        (B, 1, heads, head size).
    """
    rows, heads, _, size = query.shape
    prompts, kinds, length, _ = layer.prompt_keys.shape
    completions, queries = rows // prompts, heads // kinds  # queries that share a key

    def by_prompt(values: Tensor) -> Tensor:
        """(B, kinds, queries, n) → (prompts, kinds, completions · queries, n)."""
        split = values.unflatten(0, (prompts, completions)).transpose(1, 2)
        return split.reshape(prompts, kinds, completions * queries, -1)

    def by_completion(values: Tensor) -> Tensor:
        """The reverse of `by_prompt`."""
        return values.unflatten(2, (completions, queries)).transpose(1, 2).reshape(rows, kinds, queries, -1)

    query = query.reshape(rows, kinds, queries, size) * (size**-0.5 if scaling is None else scaling)
    of_prompt = by_completion(by_prompt(query) @ layer.prompt_keys.transpose(-1, -2))
    scores = torch.cat([of_prompt, query @ layer.keys.transpose(-1, -2)], -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    of_prompt = by_completion(by_prompt(weights[..., :length]) @ layer.prompt_values)
    return (of_prompt + weights[..., length:] @ layer.values).reshape(rows, 1, heads, -1)
