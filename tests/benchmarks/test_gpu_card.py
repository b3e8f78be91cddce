"""The cap on a card's memory, and what only a card can tell."""

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bitsandbytes as bnb
import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import card, random_base, training
from benchmarks.gpu.bench import write_model
from tests.benchmarks.test_gpu_base import nf4
from tests.simulated_gpu import OnGPU, simulated_gpu
from trl_ext.planner import vram_plan
from trl_ext.planner.memory import GIB
from trl_ext.planner.models import MODELS

ROOT = Path(__file__).parents[2]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def test_the_cap_is_what_the_planner_lets_a_run_take_of_24_gib():
    assert pytest.approx(vram_plan.DISPLAY) == 24 - card.CAP
    assert card.VRAM == 24


@pytest.mark.parametrize(("total", "fraction"), [(139.8, 22.5 / 139.8), (23.6, 22.5 / 23.6), (15.7, None)])
def test_a_larger_card_is_capped_and_a_smaller_one_says_so(monkeypatch, total, fraction):
    set_to = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=total * GIB), raising=False
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, index: set_to.append(share))
    sentence = card.hold()
    if fraction is None:
        assert set_to == [] and "15.7 GiB" in sentence
    else:
        assert set_to == [pytest.approx(fraction)] and sentence is None


@pytest.mark.parametrize("cls", [bnb.optim.PagedAdamW32bit, bnb.optim.PagedAdamW8bit, bnb.optim.PagedAdEMAMix])
def test_states_of_paged_optimizers_count(cls, monkeypatch):
    """CUDA allocates paged memory, which the limit on PyTorch's allocator does not cover."""
    functional = bnb.functional
    monkeypatch.setattr(functional, "get_paged", lambda *shape, **_: pytest.fail("allocated outside the allocator"))
    for update in ("optimizer_update_32bit", "optimizer_update_8bit_blockwise"):
        monkeypatch.setattr(functional, update, lambda *args, **kwargs: None)
    with simulated_gpu():
        parameter = torch.nn.Parameter(OnGPU(torch.zeros(400, 300)))  # large enough to be paged
        optimizer = cls([parameter], lr=0.1)
        training.Unpaged().on_train_begin(None, None, None, optimizer=SimpleNamespace(optimizer=optimizer))
        parameter.grad = OnGPU(torch.ones(400, 300))
        optimizer.step()
        state = optimizer.state[parameter]
        assert isinstance(state["state1"], OnGPU) and isinstance(state["state2"], OnGPU)


def test_every_measurement_trains_with_unpaged_states(monkeypatch):
    monkeypatch.setattr(training.roofline, "counting", lambda model, tally: contextlib.nullcontext())
    callbacks = []
    trainer = SimpleNamespace(model=None, add_callback=callbacks.append, train=lambda: None)
    trainer.state = SimpleNamespace(log_history=[])
    training.run(trainer)
    assert any(isinstance(callback, training.Unpaged) for callback in callbacks)


def test_the_environment_is_set_before_torch_is_imported():
    """PyTorch reads whether cuDNN's attention comes last once, at its first use."""
    code = "import sys, benchmarks.gpu.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert command.ENVIRONMENT["TORCH_CUDNN_SDPA_DEPRIORITIZED"] == "1"


def test_segments_expand_as_in_a_run(monkeypatch):
    seen = {}
    monkeypatch.setattr(os, "environ", {"HOME": "/"})
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "release", lambda: "6.8.0")
    monkeypatch.setattr(command, "_main", lambda words: seen.update(os.environ) or 0)
    assert command.main(["--list"]) == 0
    assert seen["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert seen["TORCH_CUDNN_SDPA_DEPRIORITIZED"] == "1"


@pytest.fixture
def capped():
    card.hold()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


@needs_gpu
def test_no_more_than_the_cap_can_be_allocated(capped):
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int(23 * GIB), dtype=torch.uint8, device="cuda")


@needs_gpu
def test_an_8b_model_takes_its_4_bit_weights_and_never_its_16_bit_ones(capped, tmp_path):
    name = "Qwen/Qwen3-8B"
    write_model(tmp_path / "model", MODELS[name])
    card.begin_peak()
    model = random_base.build(str(tmp_path / "model"), card.device(), dtype="bfloat16", quantization_config=nf4())
    taken, peak = torch.cuda.memory_allocated() / GIB, card.peak().allocated_gib
    assert taken == pytest.approx(5.66, rel=0.02)  # 0.51588 bytes of 6.95e9 weights, 2 of 1.24e9
    assert peak < taken + 2.5  # the head and the embedding are drawn in 16 bits, 1.2 GiB each
    assert {p.device.type for p in model.parameters()} == {b.device.type for b in model.buffers()} == {"cuda"}


@needs_gpu
def test_the_rate_is_one_of_tensor_cores():
    assert card.describe()["bf16_tflops_measured"] > 20
