"""The benchmark of steps: what is measured and when, how a stopped one continues, and ratios counted by hand."""

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import measure, step, step_variants
from benchmarks.measure import peak_bytes_on_cpu, shares
from benchmarks.step_record import AS_IS, BYTES, NARROW, Record, at_all_layers, ratio, spread, table
from benchmarks.step_variants import VARIANTS, first_layers, padded_tokens

THEIRS, OURS = f"TRL default, 8 pairs, {NARROW}", "packed, checkpointing"


def of(*seconds: float) -> list[dict]:
    return [{"seconds": each} for each in seconds]


# Order and resuming --------------------------------------------------------------------------------------------


def test_all_seeds_of_a_group_come_before_the_next_group_and_variants_alternate():
    assert list(step.plan((("a", "b"), ("c",)), [0, 7], rounds=1)) == [
        (0, "a", 0), (0, "b", 0), (7, "a", 0), (7, "b", 0), (0, "c", 0), (7, "c", 0),
    ]  # fmt: skip


def test_trl_as_it_is_and_several_losses_are_measured_for_the_first_step_only():
    names = (f"TRL, 4 pairs, {AS_IS}", "four losses", "packed")
    found = list(step.plan((names,), [0], rounds=2))
    assert found == [(0, name, 0) for name in names] + [(0, "packed", 1)]


def test_every_measured_name_is_a_variant():
    for groups in (step.REAL, step.RANDOM):
        for group in groups:
            assert set(group) <= set(VARIANTS)


class Bench:
    """Stands for the trainers: a step is its name and seed."""

    def __init__(self, *args):
        pass

    def step(self, name, seed, number):
        return name, seed

    def tokens(self, seed):
        return {"TRL, 4 pairs": 300, "TRL, 8 pairs": 400, "ours": 100}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the benchmark with measurements that are made up; returns what was measured, until `stop_after`."""
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"num_hidden_layers": 9}), encoding="utf-8")
    rows = [{"prompt": [], "chosen": [], "rejected": []}] * 40
    monkeypatch.setattr(step, "RESULTS", tmp_path)
    monkeypatch.setattr(step, "Bench", Bench)
    monkeypatch.setattr(step, "Trainers", lambda *args: None)
    monkeypatch.setattr(step.data, "load", lambda source: SimpleNamespace(dataset=Rows(rows)))

    def once(*more: str, stop_after: int | None = None, model: object = model) -> list[tuple[str, int]]:
        measured = []

        def fake(which):
            if len(measured) == stop_after:
                raise KeyboardInterrupt
            measured.append(which)
            return {"seconds": 1.0, "peak_bytes": 2**30, "shares": {}}

        monkeypatch.setattr(step, "measure", fake)
        with contextlib.suppress(KeyboardInterrupt):
            step.main(["pairs.jsonl", "--model", str(model), *more])
        return measured

    return once


class Rows(list):
    def shuffle(self, seed):
        return self

    def select(self, which):
        return [self[i] for i in which]


def test_a_stopped_benchmark_continues_where_it_stopped(run):
    every = [(name, seed) for seed, name, _ in step.plan(step.REAL, [0, 1, 2], rounds=1)]
    first = run(stop_after=4)
    assert first == every[:4]
    assert run(stop_after=3) == every[4:7]
    assert run() == every[7:]
    assert run() == []  # complete


def test_it_is_measured_again_on_request_and_with_other_settings(run, capsys):
    run(stop_after=2)
    assert len(run("--again", stop_after=1)) == 1
    assert run("--pairs", "4", stop_after=1) == [(THEIRS, 0)]
    assert "was measured with other settings" in capsys.readouterr().out


def test_a_folder_without_a_model_is_refused_in_one_sentence(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run(model=tmp_path / "nothing")
    assert error.value.code == 2
    assert "nothing holds no config.json. Name the folder of a model" in capsys.readouterr().err


def test_another_processor_starts_again(tmp_path):
    path, about = tmp_path / "step.json", {"date": "2026-11-01", "device": "CPU (a, 2 cores)"}
    record = Record(path, about)
    record.add(3, "packed", {"seconds": 1.0})
    assert Record(path, {**about, "date": "2026-12-01"}).has(3, "packed")
    assert not Record(path, {**about, "device": "CPU (b, 2 cores)"}).has(3, "packed")
    assert not Record(path, about).has(3, "packed", 1)


# Ratios --------------------------------------------------------------------------------------------------------


def test_a_ratio_sums_the_steps_that_both_have():
    cells = {"TRL": of(30.0, 50.0), "ours": of(10.0, 10.0, 999.0)}
    assert ratio(cells, "TRL", "ours") == 80 / 20
    assert ratio(cells, "TRL", "nothing") is None
    assert ratio(cells, "TRL", "ours", BYTES) is None


def test_the_median_comes_with_the_smallest_and_the_largest():
    assert spread([3.0]) == "3.00"
    assert spread([4.0, 2.0, 3.5]) == "3.50 (2.00 … 4.00)"


def test_a_row_has_one_ratio_for_each_seed_that_has_both():
    record = {
        "settings": {"layers": 30},
        "cells": {
            "0": {THEIRS: of(30.0), OURS: of(10.0)},
            "1": {THEIRS: of(20.0), OURS: of(10.0)},
            "2": {THEIRS: of(20.0)},
        },
    }
    assert table(record) == {"8 pairs per TRL micro-batch, both with checkpointing": {NARROW: [3.0, 2.0]}}


def test_peak_memory_is_continued_linearly_to_all_layers():
    cells = {"packed, 3 layers": [{BYTES: 130}], "packed, 6 layers": [{BYTES: 160}]}
    assert at_all_layers(cells, "packed", 30) == 100 + 10 * 30
    assert at_all_layers({"packed, 3 layers": [{BYTES: 130}]}, "packed", 30) is None


def test_peak_memory_is_linear_in_the_number_of_layers():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=12, num_attention_heads=2
    )
    trainer = SimpleNamespace(model=LlamaForCausalLM(config))
    ids = torch.arange(120).view(2, 60) % 64

    def peak(layers: int | None) -> int:
        def run() -> None:
            with first_layers(trainer, layers):
                trainer.model(input_ids=ids, labels=ids).loss.backward()

        run()  # gradients exist from now on
        return peak_bytes_on_cpu(run)

    whole = peak(None)
    cells = {f"tiny, {n} layers": [{BYTES: peak(n)}] for n in (3, 6)}
    assert at_all_layers(cells, "tiny", 12) == pytest.approx(whole, rel=0.01)
    assert peak(3) < 0.5 * whole and config.num_hidden_layers == 12


# What is counted -----------------------------------------------------------------------------------------------


def test_trl_computes_every_sequence_at_the_length_of_the_longest_of_its_micro_batch():
    def pair(prompt: int, chosen: int, rejected: int) -> dict:
        return {"prompt_ids": [1] * prompt, "chosen_ids": [1] * chosen, "rejected_ids": [1] * rejected}

    pairs = [pair(10, 2, 5), pair(3, 1, 1), pair(4, 4, 1), pair(2, 2, 2)]
    assert padded_tokens(pairs, 2) == 4 * 15 + 4 * 8
    assert padded_tokens(pairs, 4) == 8 * 15


def test_time_goes_to_the_part_that_called_an_operation():
    def event(name: str, time: float, parent: object = None) -> SimpleNamespace:
        return SimpleNamespace(name=name, self_cpu_time_total=time, cpu_parent=parent)

    head = event("ChunkedLogProbFunctionBackward", 0.0)
    attention = event("autograd::engine::evaluate_function: ScaledDotProductFlashAttentionForCpuBackward0", 2.0)
    layer = event("bitsandbytes::gemm_4bit", 3.0)
    found = shares(
        [
            head, event("aten::mm", 20.0, event("aten::matmul", 0.0, head)), attention, event("aten::copy_", 3.0, attention),
            layer, event("aten::mm", 50.0, layer), event("aten::mul", 4.0, event("bitsandbytes::dequantize_4bit", 6.0, layer)),
            event("aten::copy_", 8.0), event("aten::silu", 10.0),
        ]
    )  # fmt: skip
    assert found == pytest.approx(
        {
            measure.HEAD: 0.20, measure.ATTENTION: 0.05, measure.PRODUCTS: 0.50, measure.DEQUANTISATION: 0.04,
            measure.COPIES: 0.08, measure.OTHER: 0.13,
        }
    )  # fmt: skip


def test_a_call_is_measured_in_one_run():
    weights = torch.randn(256, 256)
    found = measure.measure(lambda: weights @ weights)
    assert found["peak_bytes"] >= 256 * 256 * 4 and found["seconds"] > 0
    assert found["shares"][measure.PRODUCTS] > 0.3


def test_trl_head_is_narrow_only_inside():
    import trl.trainer.utils

    with step_variants.narrow_head():
        assert trl.trainer.utils._use_triton(torch.device("cpu"))
    assert not trl.trainer.utils._use_triton(torch.device("cpu"))
