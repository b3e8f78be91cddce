"""Find the fused experts of a model, and store their weights in 4 bits.

A weight is a parametrised parameter of bitsandbytes: the module holds 4-bit numbers, and reading the weight returns a dequantised
copy. Experts are those of transformers' classes that take an experts implementation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState

LARGEST = 2**31
"""Elements of a tensor that bitsandbytes' kernels cannot index."""
BLOCK = 64
"""Numbers that share a scale. bitsandbytes' CPU kernel needs rows of whole blocks: it dequantises others to wrong numbers."""
PARAMETRIZATIONS = "parametrizations"
"""Attribute under which `torch.nn.utils.parametrize` keeps the parameters of a module."""


class Packed(NamedTuple):
    """A weight in 4 bits.

    Attributes:
        data: The numbers, two in a byte.
        state: Scales, shape and dtype of the dequantised weight.
    """

    data: Tensor
    state: QuantState

    def dequantised(self) -> Tensor:
        """The weight, (E, ·, ·) for E experts."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.data, self.state)

    def of(self, experts: Tensor) -> Packed:
        """A copy of the weights of some experts, which dequantises to the same values.

        Args:
            experts: Their numbers, (A,).
        """
        from bitsandbytes.functional import QuantState, dequantize_blockwise

        state, count = self.state, self.state.shape[0]
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
        chosen = QuantState(
            absmax=scales.float().view(count, -1)[experts].flatten(),
            shape=(len(experts), *state.shape[1:]),
            dtype=state.dtype,
            blocksize=state.blocksize,
            quant_type=state.quant_type,
            code=state.code,
        )
        return Packed(self.data.view(count, -1)[experts].view(-1, 1), chosen)


def are_experts(module: nn.Module) -> bool:
    """Whether a module has the experts of a layer fused into parameters, and computes them by a chosen implementation."""
    return hasattr(module, "has_gate") and hasattr(module, "is_transposed") and hasattr(module, "config")


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model that can be stored in 4 bits, by name: the 3-D ones of its experts. Biases are not among them."""
    found: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if are_experts(module):
            matrices = {name: p for name, p in module.named_parameters(recurse=False) if p.ndim == 3}
            if all(p.shape[-1] % BLOCK == 0 and p.numel() < LARGEST for p in matrices.values()):
                found |= {f"{path}.{name}": p for name, p in matrices.items()}
    return found


def routers(model: nn.Module) -> list[str]:
    """Names of the linear layers that choose or weigh experts: they lie beside these and have one output, or one for each expert."""
    found = set()
    for path, experts in model.named_modules():
        if not are_experts(experts):
            continue
        block = path.rpartition(".")[0]
        outputs = {1, *(p.shape[0] for p in experts.parameters(recurse=False) if p.ndim == 3)}
        found |= {
            f"{block}.{inside}"
            for inside, module in model.get_submodule(block).named_modules()
            if isinstance(module, nn.Linear) and module.out_features in outputs
        }
    return sorted(found)


def store(module: nn.Module, name: str, packed: Packed) -> None:
    """Replace a parameter by one that is stored in 4 bits."""
    from bitsandbytes.nn.parametrize import replace_parameter_4bit_prequantized

    parameter = nn.Parameter(packed.data, requires_grad=False)
    parameter.quant_state = packed.state  # where it is looked for on other 4-bit parameters
    setattr(module, name, parameter)
    replace_parameter_4bit_prequantized(module, name, packed.state.as_dict(packed=True), packed.data.device)


def packed(module: nn.Module, name: str) -> Packed | None:
    """The weight as it is stored; `None` if it is not in 4 bits."""
    from bitsandbytes.nn.parametrize import Bnb4bitParametrization

    of_module = module._modules.get(PARAMETRIZATIONS)
    if of_module is None or name not in of_module:
        return None
    parametrization = of_module[name][0]
    if not isinstance(parametrization, Bnb4bitParametrization):
        return None
    return Packed(of_module[name].original, parametrization.quant_state)


def path_of_original(name: str) -> tuple[str, str] | None:
    """The module and the name of the weight whose 4-bit numbers a parameter of a model holds; `None` for other parameters."""
    path, found, rest = name.rpartition(f".{PARAMETRIZATIONS}.")
    return (path, rest.removesuffix(".original")) if found and rest.endswith(".original") else None


def in_4_bits(module: nn.Module) -> list[str]:
    """Names of the weights of a module that are stored in 4 bits, in the order in which the module defined them."""
    return [name for name in module._modules.get(PARAMETRIZATIONS, ()) if packed(module, name) is not None]


@contextlib.contextmanager
def shown_as_parameters(model: nn.Module) -> Iterator[None]:
    """Inside, weights in 4 bits look like parameters of their dequantised shape and dtype, which have no values."""
    hidden: list[tuple[nn.Module, type[nn.Module], Any, dict[str, nn.Parameter]]] = []
    for module in list(model.modules()):
        names = in_4_bits(module)
        if not names:
            continue
        own, parametrised = type(module), module._modules[PARAMETRIZATIONS]
        before = dict(module._parameters)
        shapes = {name: packed(module, name).state for name in names}
        device = packed(module, names[0]).data.device
        del module._modules[PARAMETRIZATIONS]
        module.__class__ = own.__mro__[1]
        module._parameters.clear()
        for name, state in shapes.items():
            shape = parametrised[name].original.new_empty(1, dtype=state.dtype, device=device).expand(state.shape)
            module._parameters[name] = nn.Parameter(shape, requires_grad=False)
        module._parameters.update(before)
        hidden.append((module, own, parametrised, before))
    try:
        yield
    finally:
        for module, own, parametrised, before in hidden:
            module._parameters.clear()
            module._parameters.update(before)
            module.__class__ = own
            module._modules[PARAMETRIZATIONS] = parametrised
