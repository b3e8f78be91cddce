"""What is said of graphics cards that are not here."""

from dataclasses import replace

import pytest

from tests.doctor.helpers import ADA, CUDA, GIB, PASCAL, TURING, only
from trl_ext.doctor import gpu
from trl_ext.doctor.gpu import Build


@pytest.mark.parametrize(
    ("facts", "status", "found", "remedy"),
    [
        (
            {"made": CUDA, "card": ADA, "driver": (13, 0)},
            "pass",
            "RTX 4090, compute capability 8.9, driver for CUDA 13.0",
            "",
        ),
        ({"made": CUDA, "card": ADA, "count": 2}, "pass", "RTX 4090 (the first of 2)", ""),
        (
            {"made": CUDA, "card": PASCAL},
            "fail",
            "has no code for this card (only sm_75",
            "Install a torch built for it",
        ),
        (
            {},
            "warn",
            "none; everything runs on the CPU",
            "The demo, `plan` and `validate` work without one; training real models needs a GPU.",
        ),
        (
            {"named": ["RTX 4090"]},
            "fail",
            "RTX 4090, but torch 2.13.0+cpu is built for CPUs",
            "Install torch for CUDA",
        ),
        (
            {"made": CUDA, "named": ["RTX 4090"], "driver": (12, 4)},
            "fail",
            "whose driver supports CUDA 12.4, but torch is built for CUDA 13.0",
            "Update the NVIDIA driver, or install torch for CUDA 12",
        ),
        ({"made": CUDA, "named": ["RTX 4090"], "driver": (13, 0)}, "fail", "torch cannot use it", "torch.cuda.init()"),
        ({"amd": True}, "warn", "an AMD card, but torch is not built for ROCm", "Install torch for ROCm"),
        (
            {"made": Build("2.13.0", None, "7.1", ()), "card": ADA},
            "warn",
            "ROCm 7.1",
            "check the lines on bitsandbytes",
        ),
        ({"other": "mps"}, "warn", "Apple GPU (Metal)", "check the lines on bitsandbytes"),
        ({"other": "xpu"}, "warn", "Intel GPU", "check the lines on bitsandbytes"),
    ],
    ids=["ada", "two", "pascal", "none", "cpu build", "old driver", "broken", "amd", "rocm", "apple", "intel"],
)
def test_gpu(computer, facts, status, found, remedy):
    computer(**facts)
    said = only(gpu.gpu())
    assert said[0] == status and found in said[1] and remedy in said[2] and bool(said[2]) == (status != "pass")


def test_a_hidden_card(computer, monkeypatch):
    computer(made=CUDA, named=["RTX 4090"], driver=(13, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert only(gpu.gpu()) == ("fail", "RTX 4090, hidden by CUDA_VISIBLE_DEVICES=''", "Unset it, or set it to 0.")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), ("sm_80",), True),  # machine code of the same generation
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80",), False),
        ((12, 0), ("compute_90",), True),  # compiled by the driver
        ((9, 0), ("sm_90a",), True),
    ],
)
def test_which_cards_a_build_has_code_for(capability, architectures, runs):
    assert gpu._is_compiled_for(capability, architectures) is runs


def test_memory_of_the_card(computer):
    computer(made=CUDA, card=ADA)
    assert only(gpu.memory()) == ("pass", "23.0 of 24.0 GiB free", "")
    busy = replace(ADA, free=16 * GIB)
    computer(made=CUDA, card=busy, holders=[("python (pid 7)", 6.5)])
    status, found, remedy = only(gpu.memory())
    assert status == "warn" and found == "16.0 of 24.0 GiB free; the rest is used by python (pid 7) 6.5 GiB"
    assert remedy == "End programs you do not need: plans assume that all but 1.5 GiB are free."
    computer()
    assert list(gpu.memory()) == []


def test_who_holds_the_card(monkeypatch):
    rows = [["7", "/usr/bin/python3.12", "6656"], ["8", "/usr/lib/xorg/Xorg", "512"], ["9", "x", "[N/A]"]]
    monkeypatch.setattr(gpu, "nvidia_smi", lambda *query: rows)
    assert gpu.holders() == [("python3.12 (pid 7)", 6.5), ("Xorg (pid 8)", 0.5)]


def test_nvidia_smi_is_read_and_its_absence_is_none(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert gpu.nvidia_smi("--query-gpu=name,driver_version") == [["NVIDIA H200", "570.1"]]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu.nvidia_smi("--query-gpu=name") == []
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert gpu.nvidia_smi("--query-gpu=name") == []


def test_precision(computer):
    computer(made=CUDA, card=ADA)
    assert only(gpu.bfloat16()) == ("pass", "bfloat16, native on NVIDIA GeForce RTX 4090", "")
    computer(made=CUDA, card=TURING)
    status, found, remedy = only(gpu.bfloat16())
    assert status == "warn" and found == "float16: NVIDIA GeForce RTX 2080 Ti has no native bfloat16"
    assert remedy == "Leave `bf16` and `dtype` out of the recipe; float16 with loss scaling is then chosen."
    computer()
    assert only(gpu.bfloat16())[:2] == ("pass", "float32, because CPUs emulate bfloat16 slowly")
