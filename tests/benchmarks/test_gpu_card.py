"""The cap on a card's memory, and what only a card can tell."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import card, random_base
from benchmarks.gpu.bench import write_model
from tests.benchmarks.test_gpu_base import nf4
from trl_ext.planner import vram_plan
from trl_ext.planner.memory import GIB
from trl_ext.planner.models import MODELS

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
