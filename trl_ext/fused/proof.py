"""Test on a model, before training, that fused layers give the outputs and gradients of the layers they replace.

One layer of each kind is run both ways on random inputs, with a random B in place of that of a fresh LoRA, which is 0 and would
hide an error. The differences are relative to the largest number. A wrong product differs by about 1.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.fused import lora

TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative difference that is due to rounding. Float32 allows for products in TF32."""
TOKENS = 24


class DifferentError(Exception):
    """A fused layer does not give the results of the layer it replaces; the message says how."""


def compare(what: str, whose: str, run: Callable[[], dict[str, Tensor]], replaced: AbstractContextManager) -> float:
    """Compare the tensors of a fused pass with those of the pass that it replaces.

    Args:
        what: The layer, in words.
        whose: The library of the pass that it replaces, in the genitive.
        run: Gives the output and the gradients, by name.
        replaced: Context in which `run` uses the pass that was replaced.

    Returns:
        The largest relative difference.

    Raises:
        DifferentError: It is larger than rounding, or a pass fails.
    """
    try:
        found = run()
        with replaced:
            expected = run()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a device or a wrapper of weights that the fused pass does not support
        reason = (str(error) or "no message").splitlines()[0]
        raise DifferentError(f"the pass {what} fails: {type(error).__name__}: {reason}") from error
    largest = 0.0
    for name, value in expected.items():
        difference, limit = _relative(found[name], value), TOLERANCE[found["output"].dtype]
        if not difference <= limit:
            raise DifferentError(
                f"the {name} {what} differs by a relative {difference:.1e} from {whose} (tolerance {limit:.0e})"
            )
        largest = max(largest, difference)
    return largest


def prove_lora(layers: Iterable[nn.Module], autocast: Callable[[], AbstractContextManager]) -> float:
    """Compare fused LoRA layers with PEFT's forward and backward pass.

    Args:
        layers: Layers changed by `lora.fuse`. One of each kind is run.
        autocast: Gives the context of a forward pass in training.

    Returns:
        The largest relative difference.

    Raises:
        DifferentError: It is larger than rounding, or a pass fails.
    """

    def difference(layer: Any) -> float:
        what = f"of a LoRA on {layer.in_features:,} × {layer.out_features:,} weights"
        return compare(what, "PEFT's", lambda: _run(layer, _inputs(layer, autocast), autocast), _of_peft(layer))

    one_of_each = {_kind(layer): layer for layer in layers if lora.plain_adapter(layer)}
    return max(map(difference, one_of_each.values()), default=0.0)


def _kind(layer: Any) -> tuple:
    down, base = layer.lora_A[layer.active_adapters[0]].weight, layer.get_base_layer().weight
    return type(layer), layer.in_features, layer.out_features, base.dtype, len(down), down.dtype


def _inputs(layer: Any, autocast: Callable[[], AbstractContextManager]) -> dict[str, Tensor]:
    """A random input (1, T, in), gradient (1, T, out) and B (out, r), and the layer's A (r, in)."""
    down = layer.lora_A[layer.active_adapters[0]].weight.detach()
    random = torch.Generator(down.device).manual_seed(0)
    with autocast():
        is_mixed = torch.is_autocast_enabled(down.device.type)
        base = layer.get_base_layer().weight.dtype  # of a 4-bit layer, bytes
        unmixed = base if base.is_floating_point else down.dtype
        dtype = torch.get_autocast_dtype(down.device.type) if is_mixed else unmixed

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=down.device)

    return {
        "x": normal(1, TOKENS, layer.in_features).to(dtype),
        "gradient": normal(1, TOKENS, layer.out_features).to(dtype),
        "A": down.clone(),
        "B": (normal(layer.out_features, len(down)) / len(down) ** 0.5).to(down.dtype),
    }


def _run(layer: Any, inputs: dict[str, Tensor], autocast: Callable[[], AbstractContextManager]) -> dict[str, Tensor]:
    """The layer's output and its gradients for the input, A and B."""
    adapter = layer.active_adapters[0]
    x, a, b = (inputs[name].clone().requires_grad_() for name in ("x", "A", "B"))
    weights = {f"lora_A.{adapter}.weight": a, f"lora_B.{adapter}.weight": b}
    was_training = layer.lora_dropout.training
    layer.lora_dropout.eval()
    try:
        with torch.enable_grad(), autocast():
            output = torch.func.functional_call(layer, weights, (x,))
            gradients = torch.autograd.grad(output, (x, a, b), inputs["gradient"].to(output.dtype))
    finally:
        layer.lora_dropout.train(was_training)
    names = ("gradient for the input", "gradient for A", "gradient for B")
    return {"output": output.detach()} | dict(zip(names, gradients, strict=True))


@contextmanager
def _of_peft(layer: nn.Module) -> Iterator[None]:
    changed = type(layer)
    lora.restore(layer)
    try:
        yield
    finally:
        layer.__class__ = changed


def _relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()
