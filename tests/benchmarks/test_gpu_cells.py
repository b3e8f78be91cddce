"""The GPU benchmark from end to end on tiny models: every kind of cell, failures, and going on."""

import contextlib
from typing import get_type_hints

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import against_trl, card, cases, cells, results
from benchmarks.gpu.bench import Bench, write_model
from benchmarks.gpu.cells import Name
from benchmarks.gpu.deadline import OutOfTime
from benchmarks.gpu.store import Store
from trl_ext import planner
from trl_ext.support.errors import UserError

SCHEMAS = {
    "step": results.Step,
    "rollout": results.Rollout,
    "trl": results.AgainstTRL,
    "row_tokens": results.RowTokens,
    "packed_vs_padded": results.PackedVsPadded,
    "profile": results.Profile,
}
PAIRED, UNPAIRED, PPO, REWARD = "smollm3-3b-smoke", "qwen3-8b-kto", "llama-3.1-8b-ppo", "qwen3-4b-reward"


def open_store(folder) -> Store:
    described = {"name": "CPU", "memory_gib": 8.0, "cap_gib": 8.0, "bf16_tflops_measured": 0.1}
    return Store(folder, described | {"compute_capability": ""}, small=True)


def measure(wanted: list, store: Store, **more) -> list:
    return cells.measure([Name(*name) for name in wanted], store, small=True, say=lambda line: None, **more)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Store:
    """Every kind of cell, once."""
    store = open_store(tmp_path_factory.mktemp("results"))
    wanted = [(PAIRED, kind) for kind in cases.get(PAIRED).kinds]
    assert measure([*wanted, (UNPAIRED, "trl"), (PPO, "rollout"), (REWARD, "step")], store) == []
    return store


def cell(store: Store, name: str, kind: str) -> dict:
    found = store.cell(name, kind)
    assert found["why"] is None and found["fits"] is True
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((PAIRED, k) for k in cases.get(PAIRED).kinds), (UNPAIRED, "trl"), (PPO, "rollout"), (REWARD, "step")],
)
def test_a_cell_holds_what_its_schema_says(measured, name, kind):
    found = cell(measured, name, kind)
    schema = get_type_hints(SCHEMAS[kind])
    assert set(found) == set(schema)
    assert measured.results == results.read(measured.file)


def test_a_step_counts_its_tokens(measured):
    step = cell(measured, PAIRED, "step")
    assert step["examples"] == 4 and len(step["steps"]) == 4
    # Prompts are shared by the two completions of a pair, so less is computed than is there.
    assert 0.4 * step["real_tokens"] < step["computed_tokens"] < 0.8 * step["real_tokens"]
    assert step["computed_tokens"] <= step["longest_row"] * 4
    assert step["tokens_per_second"] == pytest.approx(4 * step["real_tokens"] / sum(step["steps"]))
    assert step["roofline_share"] == pytest.approx(step["tflop"] * 4 / sum(step["steps"]) / measured.rate)
    assert step["attention"] == "attention segment by segment (scaled-dot-product)"
    assert any("known value at policy = reference: correct" in line for line in step["said"])


def test_a_reward_model_takes_both_sequences_of_a_pair(measured):
    step = cell(measured, REWARD, "step")
    assert step["row_tokens"] is None and step["attention"] == "padded rows, sdpa"
    assert step["computed_tokens"] >= step["real_tokens"]  # with padding


@pytest.mark.parametrize("name", [PAIRED, UNPAIRED])
def test_trl_and_ours_take_the_same_step(measured, name):
    compared = cell(measured, name, "trl")
    assert compared["loss"] == pytest.approx(compared["our_loss"], rel=1e-4)
    assert compared["micro_batch"] == 4 and compared["did_not_fit"] == []


def test_packed_and_padded_agree_to_float32(measured):
    found = cell(measured, PAIRED, "packed_vs_padded")
    assert found["within"] and found["completions"] == 64
    assert 0 < found["largest_difference"] < 1e-4


def test_the_profile_shows_where_time_went(measured):
    found = cell(measured, PAIRED, "profile")
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["shares"]["matmul"] > 0 and found["shares"]["dequantisation"] > 0
    assert [k["seconds"] for k in found["top"]] == sorted((k["seconds"] for k in found["top"]), reverse=True)


def test_a_rollout_samples_for_every_prompt_of_its_updates(measured):
    found = cell(measured, PPO, "rollout")
    assert found["completions"] == 4 and found["updates"] == 2
    assert 0 < found["completion_tokens"] <= 4 * 8


class Stub:
    """Stands in for the measurement of every kind; fails where it is told to."""

    def __init__(self, monkeypatch, failures: dict | None = None) -> None:
        self.calls: list[Name] = []
        self.failures = failures or {}
        monkeypatch.setattr(cells, "release", lambda: None)
        for kind in cells.MEASURES:
            monkeypatch.setitem(cells.MEASURES, kind, lambda bench, rate, kind=kind: self.measure(bench, kind))

    def measure(self, bench, kind: str) -> dict:
        name = Name(bench.case.name, kind)
        if name in self.failures:
            raise self.failures[name]
        self.calls.append(name)
        return {"seconds": 1.0}


WANTED = [(PAIRED, "step"), (UNPAIRED, "step"), (PAIRED, "trl"), (PAIRED, "profile")]


@pytest.mark.parametrize("killed_by", [OutOfTime(), KeyboardInterrupt()])
def test_what_was_finished_before_a_kill_is_not_measured_again(monkeypatch, tmp_path, killed_by):
    stub = Stub(monkeypatch, {WANTED[2]: killed_by})
    with contextlib.suppress(KeyboardInterrupt):
        assert measure(WANTED, open_store(tmp_path)) == WANTED[2:]
    assert stub.calls == WANTED[:2]
    stub.failures.clear()
    assert measure(WANTED, open_store(tmp_path)) == []  # a new process reads the file
    assert stub.calls == WANTED
    assert measure(WANTED[:1], open_store(tmp_path), again=True) == []
    assert stub.calls == [*WANTED, WANTED[0]]


def test_one_cell_out_of_memory_leaves_the_others(monkeypatch, tmp_path):
    failures = {
        WANTED[1]: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        WANTED[2]: ValueError("no such kernel\nand a second line"),
    }
    stub = Stub(monkeypatch, failures)
    store = open_store(tmp_path)
    assert measure(WANTED, store) == []
    assert stub.calls == [WANTED[0], WANTED[3]]
    assert store.cell(*WANTED[1])["fits"] is False
    assert store.cell(*WANTED[1])["why"] == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert store.cell(*WANTED[2])["fits"] is None
    assert store.cell(*WANTED[2])["why"] == "ValueError: no such kernel"
    measure(WANTED, open_store(tmp_path))
    assert len(stub.calls) == 2  # a failure is finished too


def test_a_rollout_that_says_in_a_sentence_that_memory_ran_out_does_not_fit(monkeypatch, tmp_path):
    sentence = "Out of memory in the critic's update with a single completion of up to 640 tokens, prompt included."
    Stub(monkeypatch, {WANTED[0]: UserError(sentence)})
    store = open_store(tmp_path)
    measure(WANTED[:1], store)
    assert store.cell(*WANTED[0])["fits"] is False and store.cell(*WANTED[0])["why"] == sentence


@pytest.mark.parametrize(("largest", "size", "fits"), [(2, 2, True), (0, None, False)])
def test_trl_gets_smaller_micro_batches_until_one_fits(monkeypatch, tmp_path, largest, size, fits):
    run = against_trl._run

    def limited(bench, recipe, size, count):
        if size > largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(bench, recipe, size, count)

    monkeypatch.setattr(against_trl, "_run", limited)
    store = open_store(tmp_path)
    measure([(PAIRED, "trl")], store)
    found = store.cell(PAIRED, "trl")
    assert found["fits"] is fits and found["micro_batch"] == size
    assert found["did_not_fit"] == [s for s in (4, 2, 1) if s > largest]


def test_every_recipe_is_there_and_its_most_important_cell_comes_first():
    names = cases.names()
    assert not any(name.startswith("demo") for name in names)
    listed = cells.listed(names)
    assert [name.case for name in listed[: len(names)]] == names
    assert {name.kind for name in listed[: len(names)]} == {"step", "rollout"}
    assert set(listed) == {Name(name, kind) for name in names for kind in cases.get(name).kinds}
    assert cells.listed([PAIRED], ("trl",)) == [Name(PAIRED, "trl")]
    assert cases.get("gemma-2-9b-simpo").kinds == ("step", "row_tokens", "profile")  # TRL has no SimPO; never packed


def test_the_step_is_the_recipes(tmp_path):
    case = cases.get("zephyr-7b-dpo")
    settled = case.settled(tmp_path, tmp_path / "pairs.jsonl", max_steps=6)
    for key in ("loss", "max_length", "lora_r", "optim", "per_device_train_batch_size", "gradient_accumulation_steps"):
        assert settled.get(key) == case.recipe.get(key) is not None
    assert settled.loss_kwargs == {"beta": 0.01}
    assert settled.get("eval_strategy") == "no" and settled.get("dataset_train_split") is None


@pytest.mark.parametrize("name", ["zephyr-7b-dpo", "ministral-3-8b-simpo", "qwen3-8b-kto", "qwen3-4b-ppo"])
def test_a_case_is_planned_as_its_recipe_is(name, tmp_path):
    case = cases.get(name)
    write_model(tmp_path / "model", case.config)
    settled = case.settled(tmp_path / "model", tmp_path / "pairs.jsonl")
    assert planner.plan(settled, vram=card.VRAM).peak == planner.plan(case.recipe, vram=card.VRAM).peak


def test_the_base_comes_back_from_trl_as_it_was_lent(tmp_path):
    bench = Bench(cases.get(PAIRED, small=True), tmp_path, card.device())
    recipe = bench.case.settled(bench.folder, bench.data, max_steps=1)
    states = []
    for size in (4, 2):
        against_trl._run(bench, recipe, size, 4 // size)
        base = bench.base.model
        hooks = {name: len(m._forward_hooks) for name, m in base.named_modules() if m._forward_hooks}
        # As bytes: what TRL cast would differ, and 4-bit weights are bytes.
        weights = {name: p.detach().view(torch.uint8).clone() for name, p in base.named_parameters()}
        states.append((hooks, base.config._attn_implementation, weights))
    assert states[0][0] == states[1][0] == {} and states[0][1] == states[1][1] == "sdpa"
    assert states[0][2].keys() == states[1][2].keys()
    assert all(torch.equal(states[0][2][name], states[1][2][name]) for name in states[0][2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so_in_one_sentence(capsys, monkeypatch):
    for name in (*command.ENVIRONMENT, "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, "")
    assert command.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "--small" in said.err
    assert command.main(["--small", "--recipe", "nonesuch"]) == 2
    assert "nonesuch" in capsys.readouterr().err


def test_the_rate_is_measured_on_this_machine():
    described = card.describe()
    assert described["bf16_tflops_measured"] > 0 and described["name"]
