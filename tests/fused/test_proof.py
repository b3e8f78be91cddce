"""Before training, fused layers are compared with PEFT's, and are used only if they agree."""

import contextlib

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tests.conftest import pairs
from tests.fused.test_lora import adapted
from tests.trainers.helpers import arguments, lora
from trl_ext.fused import classes, module_proof, norm, proof, swiglu
from trl_ext.fused import lora as fused
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.common import fused_kernels


class Wrong(torch.autograd.Function):
    """The product of a fused layer with one mistake."""

    @staticmethod
    def forward(ctx, y, h, b, scaling):
        ctx.save_for_backward(h, b)
        ctx.scaling = scaling
        return y + (1.1 if MISTAKE == "output" else 1) * scaling * (h @ b.t())

    @staticmethod
    def backward(ctx, gradient):
        h, b = ctx.saved_tensors
        rows, inner = gradient.flatten(0, 1), h.flatten(0, 1)
        of_h = gradient @ b * ctx.scaling * (MISTAKE != "gradient for A")
        of_b = rows.t() @ inner * (1 if MISTAKE == "gradient for B" else ctx.scaling)
        return gradient * (MISTAKE != "gradient for the input"), of_h, of_b, None


MISTAKE = ""


@pytest.mark.parametrize("mistake", ["output", "gradient for the input", "gradient for A", "gradient for B"])
@pytest.mark.parametrize("autocast", [contextlib.nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_every_mistake_is_found(tiny_model, monkeypatch, mistake, autocast):
    model = adapted(tiny_model)
    monkeypatch.setattr(f"{__name__}.MISTAKE", mistake)
    layers = fused.fuse(model)
    monkeypatch.setattr(fused, "AddLowRank", Wrong)
    # Without a gradient for A, the one for the input lacks the LoRA's part too, and is compared first.
    first = "gradient for the input" if mistake == "gradient for A" else mistake
    with pytest.raises(proof.DifferentError, match=f"the {first} of a LoRA on 64 × 64 weights differs"):
        proof.prove_lora(layers, autocast)


def test_the_test_leaves_the_model_as_it_was(tiny_model):
    model = adapted(tiny_model, lora_dropout=0.3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    layers = fused.fuse(model)
    assert proof.prove_lora(layers, contextlib.nullcontext) < 1e-6
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert all(layer.lora_dropout.training and type(layer) is fused.FusedLinear for layer in layers)


def trainer(tiny_model: str, tmp_path, **settings) -> PairedPreferenceTrainer:
    return PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**arguments(tmp_path, **settings)),
        train_dataset=Dataset.from_list(pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
    )


@pytest.mark.parametrize(("settings", "count"), [({}, 6), ({"fused_kernels": "none"}, 0)])
def test_the_setting_decides(tiny_model, tmp_path, capsys, settings, count):
    built = trainer(tiny_model, tmp_path, **settings)
    assert len(list(fused.fused(built.model))) == count
    assert ("kernels: LoRA fused in 6 layers" in capsys.readouterr().out) == bool(count)


def test_a_model_that_differs_keeps_layers_of_peft(tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(f"{__name__}.MISTAKE", "output")
    monkeypatch.setattr(fused, "AddLowRank", Wrong)
    built = trainer(tiny_model, tmp_path)
    assert not list(fused.fused(built.model))
    said = " ".join(capsys.readouterr().out.split())
    assert "kernels: LoRA is computed by PEFT, because the output of a LoRA on 64 × 64 weights differs" in said


def test_a_pass_that_fails_is_a_reason(tiny_model, monkeypatch):
    def fails(*given):
        raise NotImplementedError("no such kernel on this device")

    monkeypatch.setattr(fused.AddLowRank, "apply", fails)
    with pytest.raises(proof.DifferentError, match="fails: NotImplementedError: no such kernel on this device"):
        proof.prove_lora(fused.fuse(adapted(tiny_model)), contextlib.nullcontext)


@pytest.mark.parametrize("rooms", [(norm, "KeepInput", "RMSNorm"), (swiglu, "SiluProduct", "SwiGLU")])
def test_modules_that_differ_keep_their_class(tiny_model, tmp_path, capsys, monkeypatch, rooms):
    room, function, name = rooms
    backward = getattr(room, function).backward
    twice = staticmethod(lambda *given: tuple(g if g is None else 2 * g for g in backward(*given)))
    monkeypatch.setattr(getattr(room, function), "backward", twice)
    built = trainer(tiny_model, tmp_path)
    other = swiglu.FusedMLP if room is norm else norm.FusedNorm
    changed = [module for module in built.model.modules() if isinstance(module, classes.Fused)]
    assert changed and all(isinstance(module, other) for module in changed)
    said = " ".join(capsys.readouterr().out.split())
    assert f"kernels: {name} is not fused, because the gradient for the input of" in said
    assert said.count("is not fused") == 1 and "differs by a relative" in said


def test_norms_and_mlps_are_installed_and_removed(tiny_model, tmp_path, capsys):
    built = trainer(tiny_model, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    layers = built.model.config.num_hidden_layers
    changed = [module for module in built.model.modules() if isinstance(module, classes.Fused)]
    assert sum(isinstance(module, swiglu.FusedMLP) for module in changed) == layers
    assert f"kernels: SwiGLU fused in {layers} modules; outputs and gradients differ by a relative" in said
    assert f"kernels: RMSNorm fused in {len(changed) - layers} modules" in said
    built.args.fused_kernels = "none"
    fused_kernels.install(built)
    assert not any(isinstance(module, classes.Fused) for module in built.model.modules())


def test_a_separate_reference_computes_like_the_policy(tiny_model, tmp_path):
    built = PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**arguments(tmp_path)),
        train_dataset=Dataset.from_list(pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    kinds = [[type(module) for module in model.modules()] for model in (built.model, built.ref_model)]
    assert kinds[0] == kinds[1] and any(issubclass(kind, classes.Fused) for kind in kinds[0])


def test_a_fresh_lora_hides_no_mistake(tiny_model):
    """B is 0 and its weights have no effect; the proof runs with random ones, and leaves the model as it was."""
    model = adapted(tiny_model)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    assert module_proof.prove(swiglu.fuse(model) + norm.fuse(model), contextlib.nullcontext) < 1e-6
    assert torch.equal(torch.get_rng_state(), random) and model.training
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_liger_is_used_if_it_is_right_and_replaced_if_not(tiny_model, tmp_path, capsys, monkeypatch):
    """With a stand-in for its kernel, whose backward pass writes into what it stored, as Liger's does."""

    class Kernel(torch.autograd.Function):
        factor = 1.0

        @staticmethod
        def forward(ctx, gate, up):
            ctx.save_for_backward(gate, up)
            return torch.nn.functional.silu(gate) * up * Kernel.factor

        @staticmethod
        def backward(ctx, gradient):
            gate, up = ctx.saved_tensors
            of_gate, of_up = swiglu.SiluProduct.backward(ctx, gradient)
            return gate.copy_(of_gate), up.copy_(of_up)

    monkeypatch.setattr(swiglu, "liger", lambda: Kernel)
    monkeypatch.setattr(fused_kernels, "_is_on_cuda", lambda model: True)
    built = trainer(tiny_model, tmp_path)
    assert any(isinstance(module, swiglu.LigerMLP) for module in built.model.modules())
    assert "kernels: SwiGLU fused with Liger in" in " ".join(capsys.readouterr().out.split())
    built.train()
    Kernel.factor = 1.1
    built = trainer(tiny_model, tmp_path)
    assert not any(isinstance(module, swiglu.LigerMLP) for module in built.model.modules())
    assert any(isinstance(module, swiglu.FusedMLP) for module in built.model.modules())
    said = " ".join(capsys.readouterr().out.split())
    assert "kernels: SwiGLU is not fused with Liger, because the output of" in said
