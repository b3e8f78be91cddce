"""Fused LoRA layers against PEFT's own forward and backward pass."""

import contextlib

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import lora, nf4
from trl_ext.fused import lora as fused
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import activation_memory

IDS = torch.tensor([[5, 17, 30, 44, 61, 70, 12, 9], [8, 21, 3, 33, 90, 14, 7, 2]])
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASES = {
    "float32": {},
    "NF4": {"quantization_config": nf4()},
    "bfloat16": {"dtype": torch.bfloat16},
}


def adapted(folder: str, base: str = "float32", **changes) -> torch.nn.Module:
    """The tiny model with a LoRA whose B is not 0, so that an error in any of its factors shows."""
    model = AutoModelForCausalLM.from_pretrained(folder, **BASES[base])
    model = get_peft_model(model, lora(**{"target_modules": ALL, "lora_alpha": 5, **changes}))
    keep_exact_cpu_kernels(model)
    fill(model)
    return model.train()


def fill(model: torch.nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.float()
            if "lora_B" in name:
                parameter.normal_(std=0.05)


def passed(model: torch.nn.Module, autocast=contextlib.nullcontext) -> dict[str, torch.Tensor]:
    """Logits, and the gradient of a nonlinear function of them for every trained weight."""
    model.zero_grad()
    torch.manual_seed(2)  # of dropout
    with autocast():
        logits = model(input_ids=IDS, use_cache=False).logits
        logits.float().log_softmax(-1)[..., 7].sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return {"logits": logits.detach().float()} | gradients


def products(monkeypatch) -> list:
    """Grows by one entry for each fused product."""
    done, run = [], fused.AddLowRank.apply
    monkeypatch.setattr(fused.AddLowRank, "apply", lambda *given: done.append(given) or run(*given))
    return done


def assert_equal(found: dict, expected: dict, tolerance: float) -> None:
    """The norm of the difference, relative to the norm: of logits and of the whole gradient within `tolerance`.

    Each weight's own gradient is within ten times that, so that no small one is wrong.
    """
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.norm() > 0 and (found[name] - value).norm() <= 10 * tolerance * value.norm(), name
    for names in (["logits"], [name for name in expected if name != "logits"]):
        ours, theirs = (torch.cat([tensors[name].flatten() for name in names]) for tensors in (found, expected))
        assert (ours - theirs).norm() <= tolerance * theirs.norm(), names[0]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rank_pattern": {"v_proj": 2, "down_proj": 7}, "alpha_pattern": {"q_proj": 11}},
        {"use_rslora": True, "lora_dropout": 0.3},
        {"target_modules": ["q_proj", "down_proj"]},
    ],
    ids=["all layers", "ranks of their own", "dropout", "two layers"],
)
def test_outputs_and_gradients_are_those_of_peft(tiny_model, monkeypatch, base, changes):
    model = adapted(tiny_model, base, **changes)
    if base == "bfloat16":
        model.float()  # a bfloat16 base as PEFT runs it in float32; mixed dtypes are tested below
    expected = passed(model)
    layers, done = fused.fuse(model), products(monkeypatch)
    assert_equal(passed(model), expected, 1e-6)
    assert len(done) == len(layers) == 2 * len(changes.get("target_modules", ALL))


@pytest.mark.parametrize("base", BASES)
def test_mixed_precision_differs_by_rounding(tiny_model, monkeypatch, base):
    model = adapted(tiny_model, base)

    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    exact = passed(model.float() if base == "float32" else model, autocast)
    fused.fuse(model)
    done = products(monkeypatch)
    found = passed(model, autocast)
    # The embeddings of a float32 or NF4 model here are float32, so its norms' outputs are, and PEFT adds in float32.
    assert len(done) == {"float32": 14, "NF4": 2, "bfloat16": 14}[base]
    for name, value in exact.items():
        assert torch.nn.functional.cosine_similarity(found[name].flatten(), value.flatten(), dim=0) > 0.995, name


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_gradient_checkpointing_recomputes_fused_layers(tiny_model, monkeypatch, is_checkpointed):
    model = adapted(tiny_model)
    expected = passed(model)
    fused.fuse(model)
    done = products(monkeypatch)
    if is_checkpointed:
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    assert_equal(passed(model), expected, 1e-6)
    assert len(done) == (28 if is_checkpointed else 14)


def test_adapters_off_switched_and_merged(tiny_model, monkeypatch):
    model = adapted(tiny_model)
    model.add_adapter("other", lora(target_modules=["q_proj"], r=2))
    fill(model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)(input_ids=IDS).logits

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=IDS).logits

    before = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        before[name] = logits()
    fused.fuse(model)
    done = products(monkeypatch)
    for name, count in (("default", 14), ("other", 2)):
        model.set_adapter(name)
        torch.testing.assert_close(logits(), before[name], rtol=0, atol=1e-5)
        assert len(done) == count, "layers without the active adapter are the base"
        done.clear()
    with model.disable_adapter():
        assert torch.equal(logits(), base)
    model.base_model.set_adapter(["default", "other"])
    both = logits()
    assert not done, "several adapters at once are PEFT's"
    model.base_model.set_adapter("default")
    model.merge_adapter()
    torch.testing.assert_close(logits(), before["default"], rtol=0, atol=1e-4)
    assert not done
    model.unmerge_adapter()
    fused.restore(model)
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(logits(), both, rtol=0, atol=1e-4)


def test_a_fresh_adapter_changes_nothing(tiny_model):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora(target_modules=ALL))
    fused.fuse(model)
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=IDS).logits
    assert torch.equal(model(input_ids=IDS).logits.detach(), base)


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_bias": True, "target_modules": ["q_proj"]}])
def test_other_kinds_of_lora_are_computed_by_peft(tiny_model, monkeypatch, changes):
    model = adapted(tiny_model, **changes)
    expected = passed(model)
    fused.fuse(model)
    done = products(monkeypatch)
    assert_equal(passed(model), expected, 0.0)
    assert not done


def test_hooks_of_users_are_called(tiny_model, monkeypatch):
    """A hook may keep what a layer returned, which must then not be written to."""
    model = adapted(tiny_model, target_modules=["q_proj"])
    expected = passed(model)
    layers, done = fused.fuse(model), products(monkeypatch)
    kept = []
    for layer in layers:
        layer.base_layer.register_forward_hook(
            lambda module, given, output: kept.append((output, output.detach().clone()))
        )
        layer.lora_B["default"].register_forward_hook(lambda *_: None)
    assert_equal(passed(model), expected, 0.0)
    assert not done and len(kept) == 2
    assert all(torch.equal(output, copy) for output, copy in kept)


def test_a_layer_that_stores_its_output_is_noticed():
    """The product is computed in the memory of the layer's output, so autograd has to know of the change."""
    x = torch.randn(3, 4, requires_grad=True)
    y = x.exp()  # stores its output
    result = fused.AddLowRank.apply(y, torch.randn(3, 2, requires_grad=True), torch.randn(4, 2), 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_gradients_of_the_product_by_finite_differences():
    torch.manual_seed(0)
    shapes = (2, 3, 5), (2, 3, 4), (5, 4)
    y, h, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)

    def product(*given: torch.Tensor) -> torch.Tensor:
        return fused.AddLowRank.apply(given[0] + 0, *given[1:], 0.7)

    assert torch.autograd.gradcheck(product, (y, h, b)) and torch.autograd.gradgradcheck(product, (y, h, b))


@pytest.mark.parametrize("base", ["float32", "NF4"])
def test_stored_bytes_do_not_grow(tiny_model, base):
    """What the run measures before the first step, and the plan computes, is the same with fused layers."""
    model = adapted(tiny_model, base)

    def bytes_kept() -> tuple:
        return activation_memory.kept(model.get_base_model(), lambda: model(input_ids=IDS, use_cache=False).logits)[0]

    before = bytes_kept()
    fused.fuse(model)
    assert bytes_kept() == before
