"""Bytes of the linear layers and experts of a checkpoint that is stored quantised, by its `quantization_config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trl_ext.model_files.quantised import BITSANDBYTES, Stored
from trl_ext.planner.shape import Shape, four_bit_bytes

FLOAT, INTEGER = 4, 4
"""Bytes of a float32 scale, and of an int32 index."""


@dataclass(frozen=True)
class Scheme:
    """How the elements of a weight matrix of shape (outputs, inputs) are stored.

    Attributes:
        title: Its name in tables: ``AWQ, 4-bit``.
        bits: Of an element.
        group: Elements of an input row that share a scale and a zero point; 0 if a whole row does.
        block: Elements of a rectangle that share a scale, instead; 0 if none do.
        scale: Bytes of a scale.
        zero: Bits of a zero point; 0 if there is none.
        per_input: Bytes stored for every input.
        covers_experts: Whether experts in 3-D tensors are stored so, and nothing else is.
        is_double: Whether the scales of bitsandbytes' 4-bit weights are quantised, too; `None` for other methods.
    """

    title: str
    bits: int
    group: int = 0
    block: int = 0
    scale: float = 2
    zero: int = 0
    per_input: int = 0
    covers_experts: bool = False
    is_double: bool | None = None

    def linear_bytes(self, shape: Shape) -> float:
        """Bytes of all linear layers that are stored so."""
        if self.is_double is not None:
            return sum(count * four_bit_bytes(elements, self.is_double) for elements, count in shape.linear)
        elements = shape.quantised
        return (
            elements * self.bits / 8
            + self._scales(elements, shape.linear_width)
            + self.per_input * shape.linear_inputs
        )

    def expert_bytes(self, shape: Shape) -> float:
        """Bytes of the experts in 3-D tensors, if they are stored so."""
        return shape.experts * self.bits / 8 + self._scales(shape.experts, 0)

    def _scales(self, elements: float, outputs: int) -> float:
        if self.block:
            return self.scale * elements / self.block
        groups = elements / self.group if self.group else outputs
        return groups * (self.scale + self.zero / 8)


def scheme(stored: Stored) -> Scheme | None:
    """How a checkpoint stores its weights; `None` if its configuration does not say."""
    settings, kind, bits = stored.settings, stored.kind, stored.bits
    if kind == BITSANDBYTES:
        if bits == 8:
            return Scheme("8-bit", 8, scale=FLOAT)
        return Scheme("4-bit", 4, is_double=bool(settings.get("bnb_4bit_use_double_quant")))
    if kind in ("awq", "gptq"):
        group = _positive(settings.get("group_size", settings.get("q_group_size", 128)))
        index = INTEGER if kind == "gptq" else 0
        return Scheme(f"{stored.method.title}, {bits}-bit", bits, group=group, zero=bits, per_input=index)
    if kind == "hqq":
        given = _hqq(settings)
        group = _positive(given.get("group_size", 64))
        return Scheme(f"HQQ, {given['nbits']}-bit", given["nbits"], group=group, zero=16) if "nbits" in given else None
    if kind == "fp8":
        rows, columns = settings.get("weight_block_size") or (0, 0)
        return Scheme("FP8", 8, block=rows * columns, scale=FLOAT) if rows else Scheme("FP8", 8, scale=0)
    if kind == "mxfp8":
        return Scheme("MXFP8", 8, group=32, scale=1)
    if kind == "fbgemm_fp8":
        return Scheme("FBGEMM FP8", 8, scale=FLOAT)
    if kind == "mxfp4":
        return Scheme("MXFP4", 4, group=32, scale=1, covers_experts=True)
    return _compressed(stored) if kind == "compressed-tensors" else None


def _compressed(stored: Stored) -> Scheme | None:
    """The scheme of the first group, which most checkpoints have alone."""
    groups = stored.settings.get("config_groups")
    weights = next((g.get("weights") for g in groups.values()), None) if isinstance(groups, Mapping) else None
    if not isinstance(weights, Mapping) or not weights.get("num_bits"):
        return None
    bits, strategy = int(weights["num_bits"]), weights.get("strategy")
    zero = 0 if weights.get("symmetric", True) else bits
    rows, columns = weights.get("block_structure") or (0, 0)
    return Scheme(
        f"compressed-tensors, {bits}-bit", bits, zero=zero,
        group=_positive(weights.get("group_size")) if strategy in ("group", "tensor_group") else 0,
        block=rows * columns if strategy == "block" else 0,
        scale=0 if strategy == "tensor" else 1 if strategy == "tensor_group" else 2,
    )  # fmt: skip


def _hqq(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """HQQ's settings of weights: those for all layers, or those of the first layer that has its own."""
    found = settings.get("quant_config") or {}
    while isinstance(found, Mapping) and "nbits" not in found and found:
        found = found.get("weight_quant_params") or next(iter(found.values()))
    return found if isinstance(found, Mapping) else {}


def _positive(group: Any) -> int:
    """The size of a group; 0 where a whole row is one (-1, or none given)."""
    return group if isinstance(group, int) and group > 0 else 0


def kept(stored: Stored) -> list[str] | None:
    """Patterns of the modules that a checkpoint keeps unquantised, as transformers reads them; `None` without a list."""
    key = {BITSANDBYTES: "llm_int8_skip_modules", "compressed-tensors": "ignore", "hqq": "skip_modules"}.get(
        stored.kind, "modules_to_not_convert"
    )
    listed = stored.settings.get(key)
    return [str(entry).removeprefix("re:") for entry in listed] if isinstance(listed, list) else None


def adds_to_the_usual(stored: Stored) -> bool:
    """Whether the head and other modules that are usually kept are kept besides those listed."""
    return stored.kind in ("awq", "gptq", "hqq") or kept(stored) is None
