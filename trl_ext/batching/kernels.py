"""Compute the attention of a packed row, (1, heads, T, d), in one of two ways. Neither builds a T × T mask.

`varlen` computes the whole row in one call of PyTorch's variable-length flash kernel: every segment is a sequence whose
keys are those of its prompt and its own. It needs an NVIDIA GPU of the Ampere generation or newer, and a 16-bit dtype.
`segments` runs a scaled-dot-product attention for each segment, on any device and in any dtype.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers.integrations.sdpa_attention import repeat_kv

from trl_ext.batching.transfer import from_numbers

VARLEN = "varlen"
SEGMENTS = "segments"

IN_WORDS = {
    VARLEN: "attention by variable-length flash kernels",
    SEGMENTS: "attention segment by segment (scaled-dot-product)",
}

VARLEN_DTYPES = (torch.bfloat16, torch.float16)
VARLEN_HEAD_DIM = 256  # maximum of flash attention


def usable(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Kernels that can run on `device` in `dtype`, fastest first."""
    if device.type != "cuda" or dtype not in VARLEN_DTYPES or torch.version.hip or not _takes("scale", "window_size"):
        return (SEGMENTS,)
    return (VARLEN, SEGMENTS) if torch.cuda.get_device_capability(device) >= (8, 0) else (SEGMENTS,)


def _takes(*names: str) -> bool:
    """Whether this PyTorch's kernel has these parameters: scale and window since 2.11, grouped heads since 2.12."""
    from torch.nn.attention import varlen

    return _parameters(varlen.varlen_attn).issuperset(names)


@functools.cache
def _parameters(function: Callable) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


class Sequences(NamedTuple):
    """Segments of a row in the form that the variable-length kernel takes.

    Attributes:
        keys: Indices in the row of every segment's keys, prompt first, one segment after the other; shape (S,).
            `None` if they are 0 … T−1.
        query_starts, key_starts: Start of each segment among queries and keys, int32, shape (segments + 1,).
        longest_query, longest_key: Largest number of queries and of keys of a segment.
    """

    keys: torch.Tensor | None
    query_starts: torch.Tensor
    key_starts: torch.Tensor
    longest_query: int
    longest_key: int

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by name, for `on`."""
        named = {"keys": self.keys, "query_starts": self.query_starts, "key_starts": self.key_starts}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def on(self, tensors: dict[str, torch.Tensor]) -> "Sequences":
        """The same segments with copies of their tensors on another device."""
        return self._replace(**{name: tensors[name] for name in self.tensors})


def sequences(segments: Any, device: torch.device) -> Sequences:
    """Convert segments (`trl_ext.batching.packed.Segment`), which cover a row from left to right."""
    keys = [[*range(*(segment.prefix or (0, 0))), *range(segment.start, segment.stop)] for segment in segments]
    queries = [segment.stop - segment.start for segment in segments]
    flat = [place for places in keys for place in places]

    def starts(lengths: list[int]) -> torch.Tensor:
        return F.pad(torch.tensor(lengths, dtype=torch.int32), (1, 0)).cumsum(0, dtype=torch.int32).to(device)

    return Sequences(
        from_numbers(flat).to(device) if len(flat) > sum(queries) else None,
        starts(queries),
        starts(list(map(len, keys))),
        max(queries),
        max(map(len, keys)),
    )


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: Sequences,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Compute the attention of a row in one kernel call. The last query of a segment is aligned with its last key.

    Args:
        query, key, value: Shape (1, heads, T, d); keys and values may have fewer heads.
        row: The segments.
        window: Number of keys that a query sees, itself included; `None` for all keys before it.
        scaling: Factor on the scores; `None` for d^(−1/2).

    Returns:
        Shape (1, T, heads, d).
    """
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if row.keys is not None:
        k, v = k.index_select(0, row.keys), v.index_select(0, row.keys)
    # Without that parameter the heads are not compared, and the kernel itself takes grouped ones.
    grouped = {"enable_gqa": True} if q.shape[1] != k.shape[1] and _takes("enable_gqa") else {}
    output = varlen_attn(
        q,
        k,
        v,
        row.query_starts,
        row.key_starts,
        row.longest_query,
        row.longest_key,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    return output[None]


def by_segments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Compute the attention of a row, one segment after the other.

    Args:
        query, key, value: As for `varlen`.
        mask: A `trl_ext.batching.attention.SegmentMask`: the segments, which cover the row from left to right, and the
            keys that each query sees.
        scaling: Factor on the scores; `None` for d^(−1/2).
        dropout: Probability of dropping an attention weight.

    Returns:
        Shape (1, T, heads, d).
    """
    groups = query.shape[1] // key.shape[1]
    segments = mask.layout.segments
    starts = {segment.start: index for index, segment in enumerate(segments)}
    # Split once: the backward pass of a slice fills a tensor of the whole row, for every segment.
    lengths = [segment.stop - segment.start for segment in segments]
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    outputs = []
    for index, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        prefix = segments[index].prefix
        if prefix is not None:
            shared = slice(starts[prefix[0]], starts.get(prefix[1], len(segments)))
            k = torch.cat([*keys[shared], k], dim=2)
            v = torch.cat([*values[shared], v], dim=2)
        visible = mask.of(index)
        if visible is None and prefix is not None:
            visible = causal_lower_right(q.shape[2], k.shape[2])
        outputs.append(
            F.scaled_dot_product_attention(
                q,
                repeat_kv(k, groups),
                repeat_kv(v, groups),
                attn_mask=visible,
                is_causal=visible is None,
                scale=scaling,
                dropout_p=dropout,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def gradient_difference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float | None
) -> float:
    """Largest relative difference between the two kernels' gradients of queries, keys and values.

    Args:
        query, key, value, mask, scaling: As for `by_segments`.
    """

    def gradients(attend: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
            output = attend(*inputs)
            direction = torch.arange(output.numel(), device=output.device).cos().view_as(output).to(output.dtype)
            return torch.autograd.grad(output, inputs, direction)

    found = gradients(lambda *inputs: varlen(*inputs, mask.layout.sequences, mask.reach, scaling))
    right = gradients(lambda *inputs: by_segments(*inputs, mask, scaling, 0.0))
    pairs = zip(found, right, strict=True)
    return torch.stack([(mine - other).float().norm() / other.float().norm() for mine, other in pairs]).max().item()
