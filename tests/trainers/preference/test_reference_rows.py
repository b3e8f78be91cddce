"""The reference of a step runs before the policy, in few long rows and one switch of the adapters."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, relative_difference
from trl_ext import losses
from trl_ext.batching.budget import Footprint, row_without_gradient
from trl_ext.reference import switching
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.preference import run_directory
from trl_ext.trainers.preference.reference_rows import ReferenceRows

SINGLE = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for pair in pairs(8)
    for side in ("chosen", "rejected")
]
KINDS = {
    True: (PairedPreferenceTrainer, PairedPreferenceConfig, pairs(8)),
    False: (UnpairedPreferenceTrainer, UnpairedPreferenceConfig, SINGLE),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))


def prepared(tiny_model, tmp_path, loss="dpo", **settings):
    """A trainer whose rows hold one example each, and its examples."""
    cls, config, data = KINDS[losses.get(loss).paired]
    settings = {"per_device_train_batch_size": len(data), "max_steps": 1, "row_tokens": 1, "loss": loss, **settings}
    trainer = build(cls, config(**arguments(tmp_path, **settings)), tiny_model, examples=data)
    examples = list(trainer.train_dataset)
    trainer.references.open()
    trainer.rows.prepare(examples)  # the proof of packing runs forward passes of its own
    return trainer, examples


@pytest.fixture
def counted(monkeypatch):
    """Counts the passes of a trainer's model, by what they are for, and the switches of its adapters."""
    counts, original = Counter(), switching.adapter_off
    monkeypatch.setattr(switching, "adapter_off", lambda model: counts.update(["switch"]) or original(model))

    def watch(trainer):
        def count(*_):
            gradient = torch.is_grad_enabled()
            counts["gradient" if gradient else "policy" if not trainer.model._adapters_disabled else "reference"] += 1

        trainer.model.get_base_model().model.register_forward_hook(count)
        return counts

    return watch


@torch.no_grad()
def by_plain_peft(trainer, prompt, completion):
    """Σ log π_ref of one sequence, by PEFT's own switch and without packing."""
    ids = torch.tensor([prompt + completion])
    with trainer.model.disable_adapter():
        logps = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    return logps[len(prompt) - 1 :].sum().item()


def step(trainer, examples):
    """Run a step. Returns its loss, its gradient and the reference value of every sequence."""
    values, gradients = [], {}

    def evaluate(original, tensors):
        values.append({name: tensor for name, tensor in tensors.items() if name.startswith("ref_")})
        return original(tensors)

    intercept(trainer.row_objective, "evaluate", evaluate)
    trainer.model.zero_grad()
    loss = trainer.training_step(trainer.model, [dict(example) for example in examples]).item()
    del trainer.row_objective.evaluate
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.clone()
    names = values[0]
    return loss, gradients, {name: torch.cat([of_row[name] for of_row in values]) for name in names}


@pytest.mark.parametrize("is_cached", [True, False])
@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "apo_zero_unpaired"])
def test_a_step_of_short_rows_takes_one_or_two_passes_of_the_reference(
    loss, is_cached, counted, tiny_model, tmp_path, monkeypatch
):
    trainer, examples = prepared(tiny_model, tmp_path, loss, reference_cache=is_cached)
    rows, counts = trainer.rows.cut(examples), counted(trainer)
    assert [len(row) for row in rows] == [1] * len(examples)
    ahead = step(trainer, examples)
    assert 1 <= counts["reference"] <= 2 and counts["switch"] == 1 and counts["gradient"] == len(examples)
    sequences = trainer.tokens.sequences([row[0] for row in rows])
    expected = [by_plain_peft(trainer, *sequence) for sequence in sequences]
    assert torch.cat(list(ahead[2].values())).tolist() == pytest.approx(expected, rel=1e-5)

    pairs_of_baseline = 16 if loss == "kto" else 0
    if is_cached:
        assert trainer.reference_counts() == (0, 16 + pairs_of_baseline)
        counts.clear()
        step(trainer, examples)
        assert not counts["reference"] and trainer.reference_counts() == (0, 16 + pairs_of_baseline)
        trainer.references.cache = None
    monkeypatch.setattr(ReferenceRows, "are_used", False)
    counts.clear()
    by_row = step(trainer, examples)
    assert counts["reference"] == counts["switch"] >= 8
    assert ahead[0] == pytest.approx(by_row[0], rel=1e-6)
    assert relative_difference(ahead[1], by_row[1]) < 1e-6
    for name, values in by_row[2].items():
        torch.testing.assert_close(ahead[2][name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_loss_that_compares_rows_runs_the_reference_once(is_cached, counted, tiny_model, tmp_path):
    """Its policy rows run twice."""
    trainer, examples = prepared(tiny_model, tmp_path, "aot", reference_cache=is_cached)
    counts = counted(trainer)
    trainer.training_step(trainer.model, examples)
    assert counts["reference"] <= 2 and counts["switch"] == 1 and counts["gradient"] == counts["policy"] == 8


def test_an_evaluation_and_a_loss_outside_of_a_step_switch_once_too(counted, tiny_model, tmp_path):
    trainer, examples = prepared(tiny_model, tmp_path, reference_cache=False)
    counts = counted(trainer)
    trainer.evaluation.add(examples)
    trainer.batch_loss.of_examples(trainer.model, examples)
    assert counts["switch"] == 2 and counts["reference"] <= 4
    assert trainer.references._kept is None  # nothing outlives a step


@pytest.mark.parametrize("reason", ["one row", "no reference", "precomputed", "padded"])
def test_rows_are_scored_one_by_one_where_that_is_exact_or_needed(reason, counted, tiny_model, tmp_path):
    settings = {
        "one row": {"row_tokens": 4096, "reference_cache": False},
        "no reference": {"loss": "simpo"},
        "precomputed": {"precompute_ref_log_probs": True},
        "padded": {"packing": False, "reference_cache": False},
    }
    trainer, examples = prepared(tiny_model, tmp_path, **settings[reason])
    counts, expected = counted(trainer), {"one row": 1, "padded": 8}.get(reason, 0)
    trainer.training_step(trainer.model, examples)
    assert counts["reference"] == counts["switch"] == expected and not trainer.references.is_ahead


@pytest.mark.parametrize("is_moving", [True, False])
def test_values_of_a_step_are_not_those_of_the_next(is_moving, counted, tiny_model, tmp_path):
    moving = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    settings = {"reference_cache": False, **(moving if is_moving else {})}
    trainer, _ = prepared(tiny_model, tmp_path, **settings, max_steps=2)
    found = []

    def score(original, *args):
        found.append(sum(map(float, map(sum, original(*args)))))

    intercept(trainer.reference_rows, "score", score)
    trainer.train()
    assert len(found) == 2 and (found[0] != found[1]) == is_moving


# The first step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row_tokens", "is_exact"), [(4096, True), (40, False)])
def test_the_first_step_allows_for_rounding_only_where_rows_differ(row_tokens, is_exact, tiny_model, tmp_path):
    settings = {"row_tokens": row_tokens, "reference_cache": False}
    trainer, examples = prepared(tiny_model, tmp_path, **settings)
    trainer.training_step(trainer.model, examples)
    assert trainer.references.ran_otherwise(has_run_again=False) != is_exact
    # An evaluation in several rows before a first step of one row does not loosen the check.
    trainer.evaluation.add(examples)
    trainer.memory.row_budget = 4096
    trainer.training_step(trainer.model, examples)
    assert not trainer.references.ran_otherwise(has_run_again=False)


# Memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_memory_that_runs_out_in_the_reference_shortens_its_rows_only(loss, counted, tiny_model, tmp_path, capsys):
    trainer, examples = prepared(tiny_model, tmp_path, loss, reference_cache=False, row_tokens=40)
    undisturbed = step(trainer, examples)
    tokens = []

    def run_out(module, args, kwargs):
        if trainer.model._adapters_disabled:
            tokens.append(kwargs["input_ids"].numel())
            if tokens[-1] > 100:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    trainer.model.get_base_model().model.register_forward_pre_hook(run_out, with_kwargs=True)
    capsys.readouterr()
    disturbed = step(trainer, examples)
    assert tokens[0] == tokens[1] > 150 and max(tokens[-2:]) <= 100  # the first repetition changes nothing
    assert trainer.memory.row_tokens == 40 and trainer.memory.reference_budget <= 100
    said = capsys.readouterr().out
    assert f"from now on with reference rows of up to {trainer.memory.reference_budget:,} tokens" in said
    assert "row_tokens" not in said
    assert relative_difference(disturbed[1], undisturbed[1]) < 1e-6


def test_a_completion_that_does_not_fit_leaves_it_to_the_rows_of_the_policy(tiny_model, tmp_path):
    trainer, examples = prepared(tiny_model, tmp_path, reference_cache=False, row_tokens=40)
    trainer.model.get_base_model().model.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory (injected)"))
    )
    with pytest.raises(torch.OutOfMemoryError, match="single example"):
        trainer.training_step(trainer.model, examples)
    assert trainer.memory.reference_budget <= 40


def memory_of(gradient_checkpointing, row_tokens=1000) -> RowMemory:
    args = SimpleNamespace(gradient_checkpointing=gradient_checkpointing, row_tokens=row_tokens)
    return RowMemory(SimpleNamespace(args=args), optimizer=None)


def test_the_length_of_rows_without_gradient():
    # With gradient 100 tokens need 100 · (4·20 + 0.4·20 + 5) + 7 = 9307 bytes; without, a token needs 20 + 2 + 5.
    of_four_layers = Footprint(stored=20.0, checkpointed=2.0, rest=5.0, constant=7.0, layers=4)
    assert of_four_layers.without_gradient(1000) == 27_007
    assert row_without_gradient(of_four_layers, 100, 0) == 256  # 344 tokens, a multiple of 256
    assert row_without_gradient(of_four_layers, 1024, 0) == 3328  # 1024 · 93 / 27 = 3527
    # All recomputed: 4·2 + 1.4·20 + 5 = 41.
    assert row_without_gradient(of_four_layers, 1024, 4) == 1536  # 1555
    assert row_without_gradient(of_four_layers._replace(layers=80), 1024, 0) == 8 * 1024
    assert memory_of(False).reference_tokens(300) == 8000
    assert memory_of(True).reference_tokens(300) == 2000
    assert memory_of(False).reference_tokens(1500) == 12_000
    measured = memory_of("auto")
    measured.reference_budget = 2304
    assert measured.reference_tokens(300) == 2304 and memory_of("auto", 100).reference_tokens(90) == 200


def test_a_resumed_run_has_the_same_rows(tiny_model, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "reference_cache": False, "row_tokens": 40}
    first, _ = prepared(tiny_model, tmp_path, **settings)
    first.memory.reference_budget = 70
    first.train()
    checkpoint = tmp_path / "checkpoint-1"
    again, _ = prepared(tiny_model, tmp_path / "again", **settings)
    again._load_from_checkpoint(str(checkpoint))
    assert again.memory.reference_tokens(30) == first.memory.reference_tokens(30) == 70
    # Checkpoints of older versions hold no such number.
    older = tmp_path / "older"
    older.mkdir()
    (older / run_directory.FILE).write_text(json.dumps({"num_tokens": 3, "row_budget": 40}))
    assert run_directory.read_counters(older) == (3, 40, None, {})
