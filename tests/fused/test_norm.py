"""Fused RMSNorm against the forward and backward pass of transformers' own classes."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RMSNorm

from trl_ext.fused import classes, norm
from trl_ext.trainers.common import activation_memory

WIDTH = 64
LLAMA_LIKE = [LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, MistralRMSNorm, SmolLM3RMSNorm, Olmo2RMSNorm, GptOssRMSNorm]
NORMS = dict.fromkeys(LLAMA_LIKE, 0.0) | {Gemma2RMSNorm: 1.0, nn.RMSNorm: 0.0}


def make(kind: type, dtype: torch.dtype = torch.float32) -> nn.Module:
    module = kind(WIDTH, eps=1e-5).to(dtype)
    torch.manual_seed(3)
    module.weight.data.copy_(torch.randn(WIDTH))  # `normal_` gives other numbers in each type
    return module


def passed(module: nn.Module, dtype: torch.dtype = torch.float32, shape: tuple = (2, 5, WIDTH)) -> list[torch.Tensor]:
    """Output, and gradients for the input and the weight. One row is of the size of √ε, one is 0."""
    torch.manual_seed(4)
    x = torch.randn(shape)
    x[0, 0] *= 1e-3
    x[0, 1] = 0
    x = x.to(dtype).requires_grad_()
    y = module(x)
    return [y.detach(), *torch.autograd.grad(y, (x, module.weight), torch.randn(shape).to(y.dtype))]


@pytest.mark.parametrize("kind", NORMS)
def test_results_are_those_of_the_class(kind):
    module = make(kind)
    expected = passed(module)
    assert norm.fuse(module) == [module] and module.offset == NORMS[kind]
    found = passed(module)
    assert torch.equal(found[0], expected[0]), "the forward pass is that of the class"
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert theirs.norm() > 0 and (ours - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize("kind", NORMS)
def test_bfloat16_is_within_rounding_of_float64(kind):
    """Not further from the exact gradient than autograd through the class is."""
    module = make(kind, torch.bfloat16)
    exact = passed(make(kind).double(), torch.float64) if kind is nn.RMSNorm else None
    theirs = passed(module, torch.bfloat16)
    norm.fuse(module)
    ours = passed(module, torch.bfloat16)
    assert torch.equal(ours[0], theirs[0])
    for found, expected in zip(ours[1:], theirs[1:], strict=True):
        assert found.dtype == expected.dtype == torch.bfloat16
        assert (found - expected).float().norm() <= 2**-7 * expected.float().norm()
    if exact is not None:
        assert (ours[1] - exact[1]).norm() <= 2**-7 * exact[1].norm()


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Olmo2RMSNorm])
def test_the_kernel_of_torch_is_within_rounding(kind, monkeypatch):
    """On a CPU it runs as separate operations, with the results of the kernel on CUDA up to rounding; under autocast, too."""
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2**-6)):
        module = make(kind, dtype)
        expected = passed(module, dtype)
        norm.fuse(module)
        monkeypatch.setattr(norm, "has_kernel", lambda x, weight, offset: offset == 0 and x.dtype == weight.dtype)
        with torch.autocast("cpu", torch.bfloat16):
            found = passed(module, dtype)
        monkeypatch.undo()
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            assert (ours - theirs).float().norm() <= tolerance * theirs.float().norm()


def test_bytes_stored():
    """10 tokens of 64 numbers. The class stores them in float32 and 10 float32 statistics; fused, in their own dtype alone."""

    def stored(module: nn.Module, dtype: torch.dtype) -> int:
        module.weight.requires_grad_(False)
        x = torch.randn(1, 10, WIDTH, dtype=dtype, requires_grad=True)
        return activation_memory.kept(module, lambda: module(x))[0].outside

    for kind in (LlamaRMSNorm, Qwen3RMSNorm, Gemma2RMSNorm):
        module = make(kind, torch.bfloat16)
        plain = stored(module, torch.bfloat16)
        assert plain >= 10 * WIDTH * 4 + 10 * 4 == 2600
        norm.fuse(module)
        assert stored(module, torch.bfloat16) == 10 * WIDTH * 2 == 1280


def test_a_weight_in_another_dtype():
    """The output has the wider dtype, as in the class."""
    module = make(LlamaRMSNorm)
    expected = passed(module, torch.bfloat16)
    norm.fuse(module)
    found = passed(module, torch.bfloat16)
    assert found[0].dtype == torch.float32 and torch.equal(found[0], expected[0])
    assert (found[1] - expected[1]).float().norm() <= 2**-7 * expected[1].float().norm()
    assert not norm.has_kernel(torch.empty(2, WIDTH, dtype=torch.bfloat16), module.weight, 0.0)


class ShiftedRMSNorm(LlamaRMSNorm):
    """Adds 0.5 to its weight."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) + 0.5 * hidden_states


class GatedRMSNorm(LlamaRMSNorm):
    """Takes a gate, if it is given one."""

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(hidden_states) * (1 if gate is None else gate)


def test_more_arguments_are_those_of_the_class():
    module, x, gate = make(GatedRMSNorm), torch.randn(2, WIDTH), torch.randn(2, WIDTH)
    expected = module(x, gate)
    assert norm.fuse(module) and torch.equal(module(x, gate), expected) and torch.equal(module(x, gate=gate), expected)


class BiasedRMSNorm(LlamaRMSNorm):
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.bias = nn.Parameter(torch.zeros(WIDTH))


def replaced_by_liger() -> nn.Module:
    """As `use_liger_kernel` does it: a forward pass of the object."""
    module = make(LlamaRMSNorm)
    module.forward = lambda x: x
    return module


@pytest.mark.parametrize(
    "module",
    [
        make(ShiftedRMSNorm),
        make(BiasedRMSNorm),
        replaced_by_liger(),
        nn.LayerNorm(WIDTH),
        nn.RMSNorm(WIDTH, eps=None),
        nn.RMSNorm((2, WIDTH), eps=1e-5),
    ],
    ids=["another formula", "a bias", "Liger's", "LayerNorm", "no eps", "two dimensions"],
)
def test_other_norms_are_left_alone(module):
    before = type(module)
    assert norm.fuse(module) == [] and type(module) is before


def test_changing_the_class_shows_nowhere():
    module = make(Qwen3RMSNorm)
    shown, weights = repr(module), module.state_dict()
    norm.fuse(module)
    assert norm.fuse(module) == [], "once"
    twin = copy.deepcopy(module)
    assert repr(module) == repr(twin) == shown and isinstance(twin, Qwen3RMSNorm)
    assert module.state_dict().keys() == weights.keys()
    assert torch.equal(passed(twin)[1], passed(module)[1]) and twin.weight is not module.weight
    classes.restore([module, twin])
    assert type(module) is type(twin) is Qwen3RMSNorm


def test_norms_on_the_meta_device_are_recognised():
    with torch.device("meta"):
        modules = [kind(WIDTH) for kind in (LlamaRMSNorm, Gemma2RMSNorm)]
    assert [norm.offset_of(module) for module in modules] == [0.0, 1.0]
