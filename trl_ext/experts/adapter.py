"""A LoRA on experts in 4 bits: W_e + s·L_e R_e for each expert e, without writing the sum.

PEFT 0.21 adds the LoRA of a parameter by one more parametrisation of it. With weights in 4 bits it does not find the parameter by
the end of its name, dequantises it several times in a pass, keeps the sum for the backward pass, and does not remove its
parametrisation after the pass, so that a second pass adds the LoRA twice. Merging adds to a dequantised copy, which is lost.
`install` changes these three methods of PEFT for weights in 4 bits; all others are left to PEFT.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.integrations.moe import _grouped_mm

from trl_ext.experts.storage import packed, shown_as_parameters

ALIGNED_BYTES = 16
"""PyTorch's grouped product needs rows of a multiple of this; ranks are filled up with zeros."""
LOW_RANK = "_low_rank_of_experts"
"""Attribute of a module of experts: the factors that are added to each of its weights during a forward pass."""


class Factors(NamedTuple):
    """s·L R, in the layout of the weight.

    Attributes:
        left: (E, a, r) for a weight of shape (E, a, b).
        right: (E, r, b).
        scaling: s.
    """

    left: Tensor
    right: Tensor
    scaling: float


def added(y: Tensor, x: Tensor, factors: Factors, ends: Tensor, *, is_transposed: bool) -> Tensor:
    """y plus the product of the rows of each expert with its low-rank factors; arguments as in `matmul.grouped`."""
    left, right = factors.left.to(y.dtype), factors.right.to(y.dtype)
    first, second = (left, right) if is_transposed else (right.mT, left.mT)  # (E, in, r) and (E, r, out)
    missing = -first.shape[-1] % (ALIGNED_BYTES // y.element_size())
    first, second = pad(first, (0, missing)), pad(second, (0, 0, 0, missing))
    h = _grouped_mm(x.to(y.dtype), first.contiguous(), ends)
    return y.add(_grouped_mm(h, second.contiguous(), ends), alpha=factors.scaling)


def active(module: nn.Module, name: str) -> list[Factors]:
    """What is added to a weight in this forward pass."""
    return vars(module).get(LOW_RANK, {}).get(name, [])


def factors_of(wrapper: ParamWrapper, adapter: str) -> Factors:
    """L, R and s of an adapter. PEFT stores A as (E·r, in) and B as (out, r·E)."""
    experts = wrapper.num_experts
    a, b = wrapper.lora_A[adapter].weight, wrapper.lora_B[adapter].weight
    a = a.view(experts, -1, a.shape[-1])  # (E, r, in)
    b = b.view(b.shape[0], -1, experts).permute(2, 0, 1)  # (E, out, r)
    is_transposed = not wrapper._did_swap_in_out_features
    return Factors(a.mT, b.mT, wrapper.scaling[adapter]) if is_transposed else Factors(b, a, wrapper.scaling[adapter])


def install() -> None:
    """Let PEFT put a LoRA on experts in 4 bits; a second call changes nothing."""
    if ParamWrapper._activate_lora is not _activate:
        ParamWrapper._activate_lora, ParamWrapper.merge = _activate, _merge
        BaseTuner._inject_parameters = _inject


_activate_of_peft, _merge_of_peft = ParamWrapper._activate_lora, ParamWrapper.merge
_inject_of_peft = BaseTuner._inject_parameters


@contextlib.contextmanager
def _activate(self: ParamWrapper, active_adapters: list[str]) -> Iterator[None]:
    base = self.get_base_layer()
    if packed(base, self.parameter_name) is None:
        with _activate_of_peft(self, active_adapters):
            yield
        return
    found = [factors_of(self, name) for name in active_adapters if name in self.lora_A]
    by_name = vars(base).setdefault(LOW_RANK, {})
    before = by_name.get(self.parameter_name, [])
    by_name[self.parameter_name] = [*before, *found]
    try:
        yield
    finally:
        by_name[self.parameter_name] = before


def _inject(self: BaseTuner, peft_config: Any, model: nn.Module, *args: Any, **kwargs: Any) -> list[str]:
    with shown_as_parameters(model):
        return _inject_of_peft(self, peft_config, model, *args, **kwargs)


def _merge(self: ParamWrapper, *args: Any, **kwargs: Any) -> None:
    if packed(self.get_base_layer(), self.parameter_name) is not None:
        raise ValueError(
            "A LoRA cannot be merged into experts in 4 bits, because the sum would be rounded to 4 bits again. Merge it into the "
            "16-bit model with `trl-ext merge`."
        )
    _merge_of_peft(self, *args, **kwargs)
