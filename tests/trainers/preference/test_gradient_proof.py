"""The backward pass of the variable-length kernel is proved with the trainer's own model, which must cost no run."""

import pytest
import torch

from tests.batching.test_kernels import documented_varlen
from tests.trainers.helpers import arguments, build, lora
from trl_ext.batching import kernels
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


@pytest.fixture
def has_kernel(monkeypatch):
    """This machine seems to have the kernel, for float32 as well."""
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", documented_varlen)
    monkeypatch.setattr(kernels, "VARLEN_DTYPES", (torch.float32,))
    monkeypatch.setattr(kernels, "usable", lambda device, dtype: (kernels.VARLEN, kernels.SEGMENTS))


def trainer_of(cls, model, folder, **settings):
    adapter = settings.pop("peft_config", lora())
    config = PairedPreferenceConfig(**arguments(folder, **settings), reference_cache=False)
    return build(cls, config, model, peft_config=adapter)


def kernel_of(trainer) -> str:
    return trainer.runtime.base.config._attn_implementation.split("_")[2]


def test_a_kernel_is_accepted_in_an_evaluation_before_the_first_step(has_kernel, tiny_model, tmp_path):
    trainer = trainer_of(PairedPreferenceTrainer, tiny_model, tmp_path)
    trainer.evaluate(trainer.train_dataset)
    assert kernel_of(trainer) == kernels.VARLEN


def test_a_kernel_is_accepted_under_dropout(has_kernel, tiny_model, tmp_path):
    trainer = trainer_of(
        PairedPreferenceTrainer,
        tiny_model,
        tmp_path,
        max_steps=1,
        disable_dropout=False,
        peft_config=lora(lora_dropout=0.5),
    )
    trainer.train()
    assert kernel_of(trainer) == kernels.VARLEN


def test_no_activations_of_the_model_are_kept_for_it(has_kernel, tiny_model, tmp_path, monkeypatch):
    """Row lengths are not chosen yet, and a row with all activations may not fit."""
    inputs = []

    def varlen(*args, **kwargs):
        if not trainer.rows.is_packed:
            inputs.append(args[0])
        return documented_varlen(*args, **kwargs)

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen)
    trainer = trainer_of(PairedPreferenceTrainer, tiny_model, tmp_path, max_steps=1)
    trainer.train()
    # Queries reach the kernel as a view, of what is a leaf wherever gradients are taken.
    assert any(query.requires_grad for query in inputs)
    assert all(query._base.is_leaf for query in inputs if query.requires_grad)


def test_memory_that_runs_out_in_it_costs_the_kernel_alone(has_kernel, tiny_model, tmp_path, monkeypatch, capsys):
    def varlen(*args, **kwargs):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return documented_varlen(*args, **kwargs)

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen)
    trainer = trainer_of(PairedPreferenceTrainer, tiny_model, tmp_path, max_steps=1)
    trainer.train()
    assert kernel_of(trainer) == kernels.SEGMENTS
    assert "its backward pass fails: OutOfMemoryError" in capsys.readouterr().out
