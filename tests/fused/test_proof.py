"""Before training, fused layers are compared with PEFT's, and are used only if they agree."""

import contextlib

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tests.conftest import pairs
from tests.fused.test_lora import adapted
from tests.trainers.helpers import arguments, lora
from trl_ext.fused import lora as fused
from trl_ext.fused import proof
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


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
