"""Attention over packed rows, registered with transformers' public attention and mask registries.

A model switched to one of `IMPLEMENTATIONS` behaves as before on ordinary batches. Inside `packed(layout)` its own
base mask (causal, sliding window, chunked) is evaluated on each token's *position in its sequence* and restricted to
what the layout lets it see. A ready-made 4-D mask would silently lose a sliding window instead.

`trl_ext_segments` runs one scaled-dot-product attention per prompt and branch: exactly the work there is, and never
a T × T mask. `trl_ext_flex` hands the same rule to FlexAttention as a block mask, compiled on a GPU.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flex_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trl_ext.batching.packed import Layout

SEGMENTS, FLEX = "trl_ext_segments", "trl_ext_flex"
IMPLEMENTATIONS = (SEGMENTS, FLEX)

# Arguments every model may pass; anything else that is set changes attention in a way this code does not know.
KNOWN_ARGUMENTS = {"dropout", "scaling", "sliding_window", "is_causal", "position_ids", "use_cache", "cache_position"}


class CannotPackError(RuntimeError):
    """This model's attention does something the packed path does not reproduce."""


@dataclass
class _State:
    layout: Layout
    masks: int = 0  # how often the model asked for a mask: zero means it builds its own


_STATE: contextvars.ContextVar[_State | None] = contextvars.ContextVar("packed_row", default=None)
_ORDINARY = {"name": "sdpa"}  # what models used before they were switched


@contextlib.contextmanager
def packed(layout: Layout) -> Iterator[_State]:
    """Inside, the model's masks follow `layout`."""
    state = _State(layout)
    token = _STATE.set(state)
    try:
        yield state
    finally:
        _STATE.reset(token)


def broken(layout: Layout) -> Layout:
    """The layout with one deliberate mistake: later branches see the earlier ones of their prompt.

    What a correct mask is judged against: a comparison that this one passes too would prove nothing.
    """
    segments = [s if s.prefix is None else s._replace(prefix=(s.prefix[0], s.start)) for s in layout.segments]
    return Layout(segments, layout.tree, layout.branch.clamp(max=1), layout.positions)


def switch(model: Any, implementation: str) -> None:
    """Let `model` attend by `implementation` on packed rows, and as before on everything else."""
    before = model.config._attn_implementation
    if before not in IMPLEMENTATIONS:
        _ORDINARY["name"] = before if before in ("sdpa", "eager") else "sdpa"
    model.set_attn_implementation(implementation)


@dataclass
class SegmentMask:
    """A layer type's rule for one row: its segments, and the model's base mask where it cuts off distant keys."""

    layout: Layout
    base: Callable
    reach: int | None  # keys farther away than this may be hidden by the base mask; None: it is plainly causal

    def __post_init__(self) -> None:
        self._cache: dict[int, torch.Tensor | None] = {}

    def of(self, index: int) -> torch.Tensor | None:
        """Boolean (L, S) mask of a segment's L queries on its prefix and itself, `None` if plainly causal."""
        if index not in self._cache:
            segment = self.layout.segments[index]
            keys = (segment.prefix[1] - segment.prefix[0] if segment.prefix else 0) + segment.stop - segment.start
            mask = None
            if self.reach is not None and keys > self.reach:
                query = self.layout.positions[segment.start : segment.stop, None]
                key = torch.arange(keys, device=query.device)[None, :]  # positions of the sequence from its start
                zero = torch.zeros((), dtype=torch.long, device=query.device)
                mask = self.base(zero, zero, query, key) & (key <= query)
            self._cache[index] = mask
        return self._cache[index]


def _segment_mask(*, mask_function: Callable, local_size: int | None = None, **kwargs: Any) -> Any:
    state = _STATE.get()
    if state is None:
        ordinary = ALL_MASK_ATTENTION_FUNCTIONS[_ORDINARY["name"]]
        return ordinary(mask_function=mask_function, local_size=local_size, **kwargs)
    state.masks += 1
    return SegmentMask(state.layout, mask_function, local_size)


def _segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one packed row, (1, heads, T, d), segment by segment."""
    if not isinstance(attention_mask, SegmentMask):
        ordinary = ALL_ATTENTION_FUNCTIONS.get_interface(_ORDINARY["name"], None)
        return ordinary(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    _refuse_unknown(kwargs)
    groups = query.shape[1] // key.shape[1]
    outputs = []
    for index, (start, stop, prefix) in enumerate(attention_mask.layout.segments):
        q, k, v = (tensor[:, :, start:stop] for tensor in (query, key, value))
        if prefix is not None:
            k = torch.cat([key[:, :, slice(*prefix)], k], dim=2)
            v = torch.cat([value[:, :, slice(*prefix)], v], dim=2)
        mask = attention_mask.of(index)
        if mask is None and prefix is not None:
            mask = causal_lower_right(q.shape[2], k.shape[2])
        outputs.append(
            F.scaled_dot_product_attention(
                q,
                repeat_kv(k, groups),
                repeat_kv(v, groups),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                dropout_p=dropout,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _flex_mask(*, mask_function: Callable, **kwargs: Any) -> Any:
    state = _STATE.get()
    if state is None:
        return ALL_MASK_ATTENTION_FUNCTIONS[_ORDINARY["name"]](mask_function=mask_function, **kwargs)
    state.masks += 1
    layout = state.layout

    def rule(batch: Any, head: Any, query: Any, key: Any) -> Any:
        base = mask_function(batch, head, layout.positions[query], layout.positions[key])
        return layout.visible(query, key) & base

    return flex_attention_mask(mask_function=rule, **{**kwargs, "attention_mask": None})


def _flex_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    if _is_block_mask(attention_mask):
        _refuse_unknown(kwargs)
        return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    ordinary = ALL_ATTENTION_FUNCTIONS.get_interface(_ORDINARY["name"], None)
    return ordinary(module, query, key, value, attention_mask, **kwargs)


def _is_block_mask(mask: Any) -> bool:
    return type(mask).__name__ == "BlockMask"


def _refuse_unknown(arguments: dict[str, Any]) -> None:
    unknown = sorted(
        name for name, value in arguments.items() if value not in (None, False) and name not in KNOWN_ARGUMENTS
    )
    if unknown:
        raise CannotPackError(f"its attention takes {', '.join(unknown)}, which packed rows do not reproduce")


AttentionInterface.register(SEGMENTS, _segment_attention)
AttentionMaskInterface.register(SEGMENTS, _segment_mask)
AttentionInterface.register(FLEX, _flex_attention)
AttentionMaskInterface.register(FLEX, _flex_mask)
