"""What is tried on the device: that it works here, and what is said where it does not."""

import sys
from types import SimpleNamespace

import pytest
import torch

from tests.doctor.helpers import only
from trl_ext import doctor
from trl_ext.doctor import kernels


def test_bitsandbytes_is_tried_on_this_device(monkeypatch):
    device = torch.device("cpu")
    assert only(kernels.bitsandbytes(device)) == ("pass", "4-bit products and 8-bit AdamW work on the CPU", "")
    monkeypatch.setattr(kernels, "four_bits", lambda device: 0.5)
    status, found, remedy = only(kernels.bitsandbytes(device))
    assert status == "fail" and found == "4-bit products on the CPU are off by 50%" and "--force-reinstall" in remedy

    def broken(device):
        raise RuntimeError("no kernel image\nmore")

    monkeypatch.setattr(kernels, "four_bits", broken)
    monkeypatch.setattr(kernels, "eight_bit_step", broken)
    bits, optimizer = kernels.bitsandbytes(device)
    assert bits.found == "4-bit products do not work on the CPU (RuntimeError: no kernel image)"
    assert (
        bits.remedy
        == "Run `python -m bitsandbytes` to see what is missing, or train without it (`load_in_4bit: false`)."
    )
    assert optimizer.found == "a step fails on the CPU (RuntimeError: no kernel image)"
    assert optimizer.remedy == "Use `optim: adamw_torch`, or run `python -m bitsandbytes` to see what is missing."


def test_an_optimizer_that_does_not_move_the_weights_is_caught(monkeypatch):
    import bitsandbytes

    monkeypatch.setattr(
        bitsandbytes.optim, "AdamW8bit", lambda weights, **settings: SimpleNamespace(step=lambda: None)
    )
    with pytest.raises(ArithmeticError, match="moved by 0 instead"):
        kernels.eight_bit_step(torch.device("cpu"))


def test_attention_is_tried_against_its_definition(monkeypatch):
    device = torch.device("cpu")
    assert kernels.packed_row(device) < 1e-5
    assert only(kernels.attention(device))[:2] == (
        "pass",
        "packed rows: attention segment by segment (scaled-dot-product)",
    )
    monkeypatch.setattr(kernels, "packed_row", lambda device: 1.0)
    status, found, remedy = only(kernels.attention(device))
    assert status == "fail" and found.endswith("results off by 100%")
    assert remedy == "Reinstall torch, or use `packing: false` with `attn_implementation: eager`."
    from trl_ext.batching import kernels as of_rows

    monkeypatch.setattr(of_rows, "usable", lambda device, dtype: (of_rows.VARLEN, of_rows.SEGMENTS))
    status, found, remedy = only(kernels.attention(device))
    assert status == "warn" and found.startswith("attention by variable-length flash kernels")
    assert remedy.startswith("Runs use attention segment by segment (scaled-dot-product) instead")


def test_a_flash_package_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(kernels, "has_flash_attention", lambda name: False)
    _, asked = kernels.attention(torch.device("cpu"), "flash_attention_2")
    assert asked.status == "fail" and asked.found.startswith("`attn_implementation` is flash_attention_2")
    assert asked.remedy.startswith("Remove the line (packed rows use PyTorch's own flash kernels")
    assert len(list(kernels.attention(torch.device("cpu"), "sdpa"))) == 1


def test_triton(monkeypatch):
    assert list(kernels.triton(torch.device("cpu"))) == []
    card = torch.device("cuda")
    monkeypatch.setitem(sys.modules, "trl_ext.doctor.triton_kernel", None)
    monkeypatch.delattr(doctor, "triton_kernel", raising=False)
    status, _, remedy = only(kernels.triton(card))
    assert status == "fail" and remedy == "Run pip install triton. It comes with torch for CUDA and ROCm."

    def fails(device):
        raise RuntimeError("Failed to find C compiler")

    def use(run):
        module = SimpleNamespace(run=run)
        monkeypatch.setitem(sys.modules, "trl_ext.doctor.triton_kernel", module)
        monkeypatch.setattr(doctor, "triton_kernel", module, raising=False)

    use(fails)
    monkeypatch.setattr(kernels, "without_a_compiler", lambda: "Install a C compiler")
    assert only(kernels.triton(card)) == (
        "fail", "does not compile (RuntimeError: Failed to find C compiler)", "Install a C compiler",
    )  # fmt: skip
    monkeypatch.setattr(kernels, "without_a_compiler", lambda: None)
    assert only(kernels.triton(card))[2].startswith("Remove its cache (rm -r ~/.triton)")
    use(lambda device: None)
    assert only(kernels.triton(card)) == ("pass", "compiles", "")


def test_what_triton_needs_to_compile(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    assert kernels.without_a_compiler() == "Install a C compiler: sudo apt install gcc, on Debian or Ubuntu."
    monkeypatch.setattr(kernels.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(kernels.sysconfig, "get_path", lambda name: str(tmp_path))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert kernels.without_a_compiler() == (
        f"Install Python's headers: sudo apt install python{version}-dev, on Debian or Ubuntu."
    )
    (tmp_path / "Python.h").touch()
    assert kernels.without_a_compiler() is None
