"""Counts, searches and names of the GPU benchmark against hand counts and brute force."""

import json
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu import data, profiling, results, roofline, row_tokens
from benchmarks.gpu.deadline import OutOfTime, within
from benchmarks.gpu.roofline import Tally
from trl_ext.data import load
from trl_ext.inspection.tokenise import tokenise
from trl_ext.methods import METHODS
from trl_ext.planner import counting
from trl_ext.planner.models import MODELS
from trl_ext.trainers import PairedPreferenceConfig

LLAMA = counting.count(MODELS["meta-llama/Llama-3.1-8B"], 16)
LINEAR, HEAD = 6_979_321_856, 128256 * 4096


def test_eight_operations_a_weight_and_token_with_everything_recomputed_six_with_nothing():
    # Forward 2, backward 2, reference 2; recomputation 2 more. Head: forward and backward 4, reference 2.
    kept = Tally(with_gradient=4096, without_gradient=4096, head_with_gradient=1000, head_without_gradient=1000)
    assert roofline.flop(LLAMA, kept) == 6 * LINEAR * 4096 + 6 * HEAD * 1000
    kept.recomputed = 4096
    assert roofline.flop(LLAMA, kept) == 8 * LINEAR * 4096 + 6 * HEAD * 1000


def test_tokens_are_counted_as_they_pass():
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
            num_attention_heads=2, num_key_value_heads=1,
        )
    )  # fmt: skip
    ids, tally = torch.arange(14).view(2, 7), Tally()
    with roofline.counting(model.train(), tally):
        with torch.no_grad():
            model(input_ids=ids)
        model(input_ids=ids[:1])
        model.gradient_checkpointing_enable()
        for layer in model.model.layers[1:]:
            layer.gradient_checkpointing = False
        model(input_ids=ids).logits.sum().backward()
    model(input_ids=ids)  # no longer counted
    assert tally == Tally(with_gradient=21, without_gradient=14, recomputed=14 / 4, longest=14)


@pytest.mark.parametrize("limit", [0, 1, 255, 256, 300, 2048, 5000, 16384, 10**9])
@pytest.mark.parametrize("start", [256, 2048])
def test_the_longest_row_is_found_to_within_a_step(limit, start):
    most = 16384
    tried = []

    def fits(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= limit

    good, bad = row_tokens.largest(fits, start, most)
    assert good == min(limit // 256 * 256, most)
    assert (bad is None) == (limit >= most)
    assert bad is None or good < bad <= good + 256
    assert len(tried) == len(set(tried)) <= 12


def test_rows_are_filled_in_order_with_one_example_at_least():
    def size(row: list[dict]) -> int:
        return sum(example["n"] for example in row)

    examples = [{"n": n} for n in (5, 3, 9, 1)]
    assert size(row_tokens.filled(examples, size, 16)) == 8  # 5 + 3; the 9 does not fit, and none is skipped
    assert size(row_tokens.filled(examples, size, 17)) == 17
    assert size(row_tokens.filled(examples, size, 2)) == 5


@pytest.mark.parametrize(
    ("kernel", "part"),
    [
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>(float*, unsigned char*, float*)", "dequantisation"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4>>(...)", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<...>)", "attention"),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_cublas", "matmul"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128>", "matmul"),
        ("_forward_kernel", "head"),
        ("void kOptimizerStatic8bit2StateBlockwise<float, 0, 256, 1>(...)", "optimizer"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", "optimizer"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "rest"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel, part):
    assert profiling.part_of(kernel) == part


def test_shares_add_up_to_one():
    kernels = [{"name": "kDequantizeBlockwise", "seconds": 1.0}, {"name": "nvjet", "seconds": 3.0}]
    found = profiling.shares(kernels)
    assert found["dequantisation"] == 0.25 and found["matmul"] == 0.75 and sum(found.values()) == 1


@pytest.mark.parametrize("name", ["hh", "hh-longest"])
def test_data_have_the_lengths_of_their_table(name, tmp_path):
    rows, file = data.table(name), tmp_path / "pairs.jsonl"
    data.write(file, rows, 500)
    tokenised = tokenise(
        METHODS["paired"],
        load(file).dataset,
        data.tokenizer(512),
        PairedPreferenceConfig(str(tmp_path), use_cpu=True, bf16=False),
    )
    found = [tuple(len(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")) for row in tokenised]
    # A completion is a word and its end at least.
    assert found == [(max(p, 1), max(c, 2), max(r, 2)) for p, c, r in rows]
    assert len(rows) >= 192  # six steps of the largest batch


def test_long_prompts_are_cut_where_completions_are_sampled(tmp_path):
    data.write(tmp_path / "pairs.jsonl", [(700, 4, 4), (3, 4, 4)], 500, longest_prompt=512)
    prompts = [json.loads(line)["prompt"].split() for line in (tmp_path / "pairs.jsonl").open(encoding="utf-8")]
    assert list(map(len, prompts)) == [512, 3]


def test_time_that_is_up_stops_even_what_catches_errors():
    with pytest.raises(OutOfTime), within(0.05):
        while True:
            try:
                time.sleep(60)
            except Exception:
                continue
    with within(60):
        pass  # and the clock is off again


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_time_that_is_up_in_a_finaliser_is_up_afterwards_too():
    class Slow:
        def __del__(self) -> None:
            lost.append(True)
            time.sleep(60)

    lost: list[bool] = []
    slow = Slow()
    with pytest.raises(OutOfTime), within(1):  # by which the finaliser runs, on a busy machine too
        del slow
        time.sleep(60)
    assert lost == [True]


def test_results_of_tiny_models_are_never_read_as_those_of_a_card(tmp_path):
    small = results.path("CPU", tmp_path, small=True)
    card = results.path("NVIDIA GeForce RTX 4090", tmp_path)
    small.write_text('{"small": true}', encoding="utf-8")
    card.write_text('{"small": false}', encoding="utf-8")
    assert results.measured(tmp_path) == [{"small": False}]
    assert card == Path(tmp_path, "gpu-nvidia-geforce-rtx-4090.json")
