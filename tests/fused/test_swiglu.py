"""Fused gated MLPs against transformers' own classes."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from tests.fused.test_lora import IDS, adapted, assert_equal, passed
from trl_ext.fused import classes, norm, swiglu
from trl_ext.fused import lora as fused_lora
from trl_ext.trainers.common import activation_memory

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 128,
    "pad_token_id": 0,
}


def mlp(kind: type = LlamaMLP, dtype: torch.dtype = torch.float32, config: type = LlamaConfig, **changes) -> nn.Module:
    torch.manual_seed(0)
    return kind(config(**SIZES, **changes)).to(dtype)


def run(module: nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(1)
    x = (3 * torch.randn(2, 5, 32)).to(dtype).requires_grad_()
    y = module(x)
    return [y.detach(), *torch.autograd.grad(y, (x, *module.parameters()), torch.randn(y.shape).to(dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [LlamaMLP, Qwen3MLP, MistralMLP])
def test_results_are_those_of_the_class_to_the_bit(kind, dtype):
    module = mlp(kind, dtype)
    expected = run(module, dtype)
    assert swiglu.fuse(module) == [module]
    found = run(module, dtype)
    assert all(map(torch.equal, found, expected)) and all(value.any() for value in found)


def test_gradients_by_finite_differences():
    gate, up = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(swiglu.SiluProduct.apply, (gate, up))


def test_bytes_stored():
    """10 tokens, 48 products in bfloat16: gate, up and silu(gate), then only gate and up."""
    module = mlp(dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, 10, 32, dtype=torch.bfloat16, requires_grad=True)

    def stored() -> int:
        return activation_memory.kept(module, lambda: module(x))[0].outside

    assert stored() == 3 * 10 * 48 * 2 == 2880
    swiglu.fuse(module)
    assert stored() == 2 * 10 * 48 * 2 == 1920


class Scaled(LlamaMLP):
    """Its forward pass multiplies the product."""

    def forward(self, x):
        return self.down_proj(2 * self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def with_own_forward() -> nn.Module:
    module = mlp()
    module.forward = lambda x: x
    return module


@pytest.mark.parametrize(
    "module",
    [
        mlp(hidden_act="gelu"),
        mlp(Gemma2MLP, config=Gemma2Config),
        mlp(Phi3MLP),
        mlp(Scaled),
        with_own_forward(),
    ],
    ids=["gelu", "Gemma", "one projection", "scaled", "Liger's or a hook of accelerate"],
)
def test_other_mlps_are_left_alone(module):
    before = type(module)
    assert swiglu.fuse(module) == [] and type(module) is before and not swiglu.can_fuse(module)


def test_hooks_of_users_are_called():
    module = mlp()
    swiglu.fuse(module)
    called = []
    for part in (module, module.gate_proj, module.act_fn):
        part.register_forward_hook(lambda part, given, output: called.append(type(part).__name__))
    run(module, torch.float32)
    assert called == ["Linear", "SiLUActivation", "LlamaMLP"]


def test_a_mixture_of_experts_is_left_alone():
    from transformers import Qwen3MoeConfig

    sizes = SIZES | {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
    model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**sizes))
    assert swiglu.fuse(model) == []


@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_whole_models_in_4_bits(config, is_checkpointed, tmp_path):
    """All of `fused_kernels` at once, against PEFT and transformers. LoRA on NF4, a row with and one without gradients."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(**SIZES)).save_pretrained(tmp_path)
    model = adapted(str(tmp_path), "NF4")
    # The norms' weights are 1 in a new model, which would hide that one is not multiplied by.
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)
    expected = passed(model)
    with torch.no_grad():
        reference = model(input_ids=IDS).logits
    before = model.get_base_model().config.to_dict()
    norms, mlps = norm.fuse(model), swiglu.fuse(model)
    assert len(norms) == (5 if config is LlamaConfig else 9) and len(mlps) == 2
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, reference), "the forward pass alone differs in no bit"
    fused_lora.fuse(model)
    if is_checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(passed(model), expected, 1e-6)
    twin = copy.deepcopy(model)
    assert_equal(passed(twin), expected, 1e-6)
    assert model.get_base_model().config.to_dict() == before
    classes.restore(model.modules())
    fused_lora.restore(model)
    assert not any(isinstance(module, classes.Fused) for module in model.modules())


def test_merging_and_saving(tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "base")
    model = adapted(str(tmp_path / "base"))
    for fuse in (norm.fuse, swiglu.fuse, fused_lora.fuse):
        fuse(model)
    logits = model(input_ids=IDS).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, logits, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(loaded).__name__ == "LlamaForCausalLM" and not norm.fuse(nn.Sequential(nn.Linear(2, 2)))
    torch.testing.assert_close(loaded(input_ids=IDS).logits, logits, rtol=0, atol=1e-5)
