"""Compute attention over packed rows, through transformers' registries of attention functions and masks.

A model that is switched behaves as before on ordinary batches. Inside `packed(layout)` every prompt and every branch
attends only to its own keys (`trl_ext.batching.kernels`). The model's own mask (causal, sliding window, chunked) is
evaluated on each token's *position in its sequence*. A ready-made 4-D mask would silently drop a sliding window.
"""

import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trl_ext.batching import kernels
from trl_ext.batching.packed import Layout

PREFIX = "trl_ext"  # followed by the kernel for packed rows and the implementation used on ordinary batches

# Arguments that any model may pass. Any other argument that is set changes attention in a way this code does not support.
KNOWN_ARGUMENTS = {
    "is_causal",
    "position_ids",
    "use_cache",
    "cache_position",
}


class CannotPackError(RuntimeError):
    """The model's attention does something that packed rows do not support."""


@dataclass
class Count:
    """How often a model requested a mask (0 if it builds its own), and which kernels computed its attention."""

    masks: int = 0
    kernels: set[str] = field(default_factory=set)


_LAYOUT: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)
_COUNT: contextvars.ContextVar[Count | None] = contextvars.ContextVar("count", default=None)
_DIFFERENCES: contextvars.ContextVar[list[float] | None] = contextvars.ContextVar("differences", default=None)
_ORDINARY: dict[str, str] = {}  # registered name → implementation on ordinary batches


@contextlib.contextmanager
def packed(layout: Layout) -> Iterator[None]:
    """Context in which the model's masks follow `layout`."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


@contextlib.contextmanager
def count_masks() -> Iterator[Count]:
    """Context that counts the masks made for packed rows, and records the kernels."""
    count = Count()
    token = _COUNT.set(count)
    try:
        yield count
    finally:
        _COUNT.reset(token)


@contextlib.contextmanager
def compare_with_segments() -> Iterator[list[float]]:
    """Context that records, for each attention call in another kernel, its gradients' difference from by-segment attention."""
    differences: list[float] = []
    token = _DIFFERENCES.set(differences)
    try:
        yield differences
    finally:
        _DIFFERENCES.reset(token)


def _layout() -> Layout | None:
    layout, count = _LAYOUT.get(), _COUNT.get()
    if layout is not None and count is not None:
        count.masks += 1
    return layout


def broken(layout: Layout) -> Layout:
    """The layout with a deliberate mistake: branches see the other branches, and prompts see everything before them.

    A correct mask is compared with it: a test that this layout passes, too, proves nothing.
    """
    segments = [s._replace(prefix=(s.prefix[0] if s.prefix else 0, s.start)) for s in layout.segments]
    segments = [s if s.start else s._replace(prefix=None) for s in segments]
    return Layout(segments, layout.positions)  # without the padded rows, whose masks would hide the mistake


def switch(model: Any, kernel: str = kernels.SEGMENTS) -> str:
    """Make `model` compute packed rows with `kernel`, and other batches as before.

    Only the language model is switched: a tower for images has sequences of its own, which no layout describes.

    Returns:
        The model's previous implementation, for `switch_back`.
    """
    before = ordinary(model.config.get_text_config()._attn_implementation)
    switch_back(model, _register(kernel, before))
    return before


def switch_back(model: Any, implementation: str) -> None:
    """Set the implementation of the language model."""
    config = model.config
    text = config.get_text_config()
    parts = {key: implementation for key in config.sub_configs if getattr(config, key, None) is text}
    model.set_attn_implementation(implementation if text is config else parts)


def ordinary(implementation: str | None) -> str | None:
    """The implementation used on ordinary batches, given the name of a switched or an unswitched model."""
    return _ORDINARY.get(implementation, implementation)


def function_of(module: torch.nn.Module, implementation: str) -> Callable:
    """The function of an implementation, for an attention module of a model."""
    # The eager attention of a model is defined in its module, not in the registry.
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)


@contextlib.contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Context in which `model` has the implementation that it had before `switch`: some code accepts only names it knows."""
    switched = model.config.get_text_config()._attn_implementation
    usual = ordinary(switched)
    if usual == switched:
        yield
        return
    switch_back(model, usual)
    try:
        yield
    finally:
        switch_back(model, switched)


@dataclass
class SegmentMask:
    """Mask of one type of layers for one row: its segments, and the model's mask if it hides distant keys."""

    layout: Layout
    base: Callable
    reach: int | None  # the model's mask may hide keys farther away than this; None: it is causal

    @property
    def is_whole(self) -> bool:
        """Whether the model's mask is evaluated in full: of images, it may show later tokens, too."""
        return self.layout.rows is not None and self.base is not causal_mask_function

    def __post_init__(self) -> None:
        self._cache: dict[int, torch.Tensor | None] = {}

    def __getitem__(self, index: tuple[slice, ...]) -> "SegmentMask":
        """Return itself: Gemma 4 slices its masks to the queries it continues with, which are all queries of a row."""
        if any(part not in (slice(None), slice(0, None)) for part in index):
            raise CannotPackError("it drops tokens between its layers")
        return self

    def of(self, index: int) -> torch.Tensor | None:
        """Boolean (L, S) mask of a segment's L queries on its prefix and itself; `None` if it is causal."""
        if index not in self._cache:
            segment = self.layout.segments[index]
            keys = (segment.prefix[1] - segment.prefix[0] if segment.prefix else 0) + segment.stop - segment.start
            mask = None
            if self.is_whole or (self.reach is not None and keys > self.reach):
                query = self.layout.positions[segment.start : segment.stop, None]
                key = torch.arange(keys, device=query.device)[None, :]  # a prefix starts at position 0
                zero = torch.zeros((), dtype=torch.long, device=query.device)
                row = zero + self.layout.rows[index] if self.is_whole else zero
                mask = self.base(row, zero, query, key)
                mask = mask if self.is_whole else mask & (key <= query)
            self._cache[index] = mask
        return self._cache[index]


def _register(kernel: str, usual: str) -> str:
    """Register an implementation that uses `kernel` for packed rows and `usual` for other batches. Returns its name."""
    name = f"{PREFIX}_{kernel}_{usual.replace('flash', 'fa')}"  # names with "flash" have a special meaning in transformers
    if name in _ORDINARY:
        return name
    _ORDINARY[name] = usual

    def mask(*, mask_function: Callable, local_size: int | None = None, **kwargs: Any) -> Any:
        layout = _layout()
        if layout is not None:
            return SegmentMask(layout, mask_function, local_size)
        make = ALL_MASK_ATTENTION_FUNCTIONS[usual]
        return make(mask_function=mask_function, local_size=local_size, **kwargs)

    def attention(
        module: torch.nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
    ) -> Any:
        if isinstance(attention_mask, SegmentMask):
            return _attend(kernel, query, key, value, attention_mask, **kwargs), None
        return function_of(module, usual)(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)
    return name


def _attend(
    kernel: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: SegmentMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention of one packed row, (1, heads, T, d) → (1, T, heads, d)."""
    _refuse_unknown(kwargs)
    # Under autocast, rotary embeddings and norms leave queries and keys in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    # The variable-length kernel supports windows, but no other masks and no dropout.
    is_plain = mask.reach in (None, sliding_window) and not mask.is_whole and not dropout
    same_width = query.shape[-1] == value.shape[-1] <= kernels.VARLEN_HEAD_DIM
    if kernel == kernels.VARLEN and not (is_plain and same_width and query.dtype in kernels.VARLEN_DTYPES):
        kernel = kernels.SEGMENTS
    if (count := _COUNT.get()) is not None:
        count.kernels.add(kernel)
    if kernel == kernels.VARLEN:
        if (differences := _DIFFERENCES.get()) is not None:
            differences.append(kernels.gradient_difference(query, key, value, mask, scaling))
        return kernels.varlen(query, key, value, mask.layout.sequences, mask.reach, scaling)
    return kernels.by_segments(query, key, value, mask, scaling, dropout)


def _refuse_unknown(arguments: dict[str, Any]) -> None:
    unknown = sorted(
        name
        for name, value in arguments.items()
        if value is not None and value is not False and name not in KNOWN_ARGUMENTS
    )
    if unknown:
        raise CannotPackError(f"its attention takes {', '.join(unknown)}, which packed rows do not support")
