"""The 4-bit base stays what it was when it was loaded, on CPUs that bitsandbytes has an inference-only format for too."""

import bitsandbytes as bnb
import pytest
import torch

from trl_ext.support.frozen_base import keep_exact_cpu_kernels


class RepackedError(Exception):
    pass


@pytest.fixture
def layer(monkeypatch):
    """A 4-bit layer on a CPU that bitsandbytes takes for one with AVX512-BF16, in evaluation mode."""

    def repack(*_):
        raise RepackedError

    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    monkeypatch.setattr(bnb.nn.modules, "_convert_weight_packed_for_cpu", repack)
    return bnb.nn.Linear4bit(64, 64, compute_dtype=torch.float32, quant_type="nf4").to("cpu").eval()


def test_bitsandbytes_would_repack_it(layer):
    with pytest.raises(RepackedError):
        layer(torch.ones(2, 64))


def test_it_is_kept_and_passes_gradients(layer):
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    keep_exact_cpu_kernels(model)
    before = layer.weight.data.clone()
    with torch.no_grad():
        model(torch.ones(2, 64))
    inputs = torch.ones(2, 64, requires_grad=True)
    model(inputs).sum().backward()
    assert torch.equal(layer.weight.data, before) and inputs.grad.abs().sum() > 0
