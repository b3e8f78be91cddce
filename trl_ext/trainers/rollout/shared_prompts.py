"""Compute the keys and values of a prompt once for all completions that are sampled after it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from trl_ext.trainers.common.temporarily import temporarily
from trl_ext.trainers.rollout import preallocated_cache, prompt_attention
from trl_ext.trainers.rollout.prompt_attention import Reading

ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers whose cache can be copied for other rows."""
CACHE = ("cache", "past_key_values")
"""Names of the argument that takes a cache: since transformers 5.24, and before."""
READ = {"position_ids", "logits_to_keep"}


@contextmanager
def run_once(model: nn.Module) -> Iterator[None]:
    """Context in which `model.generate` runs each prompt once, whether TRL or PEFT calls it.

    Args:
        model: A plain transformers model, or one in whose layers PEFT has put an adapter.
    """
    plain = model.generate

    def generate(*, generation_config: GenerationConfig, logits_processor: Any = None, **inputs: Any) -> Tensor:
        with prompt_attention.readable(model) as reading:
            cache = cache_of(model, inputs, generation_config, reading)
            return plain(**inputs, **cache, generation_config=generation_config, logits_processor=logits_processor)

    with temporarily(model, generate=generate):
        yield


@torch.no_grad()
def cache_of(
    model: nn.Module, inputs: dict[str, Any], config: GenerationConfig, reading: Reading | None = None
) -> dict[str, DynamicCache]:
    """The cache of all prompt tokens but the last, as an argument of `model.generate`.

    `generate` itself runs a prompt once per completion. Here each distinct prompt is run once. Its keys and values are kept once for all
    its completions where `reading` allows it, and otherwise copied into memory that has room for the completions.

    Args:
        model: A plain transformers model.
        inputs: `input_ids` and `attention_mask` (B, P), padded on the left; equal rows are completions of one prompt.
        config: Of the call of `generate`.
        reading: Of the context `prompt_attention.readable`.

    Returns:
        The cache of B rows, by the name of the argument; nothing if no prompt is repeated, or if this model or these settings
        use another cache.
    """
    if inputs.keys() != {"input_ids", "attention_mask"} or inputs["input_ids"].size(1) < 2:
        return {}
    if config.cache_implementation or model.generation_config.cache_implementation or config.use_cache is False:
        return {}
    if max(config.num_beams or 1, config.num_return_sequences or 1) > 1:
        return {}  # `generate` would repeat the rows, but not those of a cache
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - ATTENTION
    read = inspect.signature(model.forward).parameters
    name = next((name for name in CACHE if name in read), None)
    if kinds or name is None or not read.keys() >= READ:
        return {}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows, inverse = torch.unique(torch.stack([ids, mask], 1), dim=0, return_inverse=True)
    if len(rows) == len(ids):
        return {}
    ids, mask = rows[:, 0, :-1], rows[:, 1, :-1]
    cache = DynamicCache(config=model.config)
    with prompt_attention.prompts_of(reading) as seen:
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask),
            use_cache=True,
            logits_to_keep=1,
            **{name: cache},
        )
        if type(output[name]) is not DynamicCache:
            return {}
        new_tokens = 1 + (config.max_new_tokens or 0)  # the last of the prompt is one of them
        if not prompt_attention.keep_once(output[name], inverse, new_tokens, seen):
            preallocated_cache.with_room(output[name], inverse, ids.size(1) + new_tokens)
    return {name: output[name]}


def _positions(mask: Tensor) -> Tensor:
    """As `generate` numbers the tokens of rows that are padded on the left."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
