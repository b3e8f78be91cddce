"""Memory that runs out in the middle of a step costs that attempt and nothing else."""

import itertools

import pytest
import torch

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, relative_difference, weights
from trl_ext.methods import METHODS
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.preference import retry


def fail(trainer, *at: int) -> None:
    """Have the trainer's device run out of memory in some of the rows it scores, counted over all attempts."""
    rows = itertools.count(1)

    def score(original, model, batch):
        if next(rows) in at:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return original(model, batch)

    intercept(trainer.row_objective, "score", score)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("loss", ["dpo", "aot", "kto"])
def test_the_same_step_is_run_again_with_smaller_rows(loss, packing, tiny_model, tmp_path, capsys):
    cls, config_class = METHODS["unpaired" if loss == "kto" else "paired"].classes()

    def run(*at):
        config = config_class(**arguments(tmp_path, optim="adamw_torch"), loss=loss, row_tokens=90, packing=packing)
        trainer = build(cls, config, tiny_model)
        fail(trainer, *at)
        trainer.train()
        return trainer

    undisturbed, disturbed = run(), run(3, 6)  # the same row twice
    assert capsys.readouterr().out.count("out of memory: the step is repeated, from now on with row_tokens") == 1
    assert disturbed.memory.row_budget < 90
    assert relative_difference(weights(disturbed), weights(undisturbed)) < 1e-5
    for log, other in zip(disturbed.recorder.logs, undisturbed.recorder.logs, strict=True):
        assert log["num_tokens"] == other["num_tokens"]
        assert log["rewards/margins"] == pytest.approx(other["rewards/margins"], rel=1e-4, abs=1e-5)


def test_a_step_is_first_repeated_with_the_same_rows(tiny_model, tmp_path, capsys, monkeypatch):
    """Cached memory is freed before, so a step that failed for fragmentation alone is the same bit for bit."""
    order = []

    def run(*at):
        config = PairedPreferenceConfig(**arguments(tmp_path, max_steps=2), row_tokens=90)
        trainer = build(PairedPreferenceTrainer, config, tiny_model)
        fail(trainer, *at)
        intercept(trainer.row_objective, "score", lambda original, *given: (order.append("row"), original(*given))[1])
        trainer.train()
        return trainer

    monkeypatch.setattr(retry, "release", lambda: order.append("freed"))
    undisturbed = run()
    order.clear()
    disturbed = run(3)
    assert order[:4] == ["row", "row", "row", "freed"] and order.count("freed") == 1
    assert disturbed.memory.row_tokens == 90
    printed = capsys.readouterr().out
    assert "out of memory: cached memory was freed, and the step is repeated with the same rows" in printed
    assert "from now on" not in printed
    for name, weight in weights(undisturbed).items():
        assert torch.equal(weights(disturbed)[name], weight), name


@pytest.mark.parametrize("packing", [True, False])
def test_a_single_example_that_does_not_fit_stops_with_a_sentence(packing, tiny_model, tmp_path):
    """Also where lengths differ, so that two short examples always fit where one long one does.

    transformers' search for a batch size would start the run again with smaller batches, until none is left.
    """

    def score(*_):
        raise torch.OutOfMemoryError("CUDA out of memory (injected)")

    examples = [*pairs(7, longest=2), *pairs(1, seed=5, longest=12)]
    config = PairedPreferenceConfig(**arguments(tmp_path, auto_find_batch_size=True), row_tokens=200, packing=packing)
    trainer = build(PairedPreferenceTrainer, config, tiny_model, examples=examples)
    trainer.row_objective.score = score
    with pytest.raises(torch.OutOfMemoryError, match=r"single example of up to .* tokens in a row"):
        trainer.train()


def test_an_error_of_a_library_is_quoted_where_nothing_helps(tiny_model, tmp_path):
    """A status of cuBLAS may have another cause than memory, such as an unsuitable driver."""
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path), row_tokens=200), tiny_model)

    def score(*_):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")

    trainer.row_objective.score = score
    words = r"single example of .* in a row \(CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate\(handle\)`\)\. "
    with pytest.raises(torch.OutOfMemoryError, match=words):
        trainer.train()


def test_a_first_step_that_is_run_again_in_16_bits_is_judged_by_its_distance(tiny_model, tmp_path, capsys):
    """Its reference values were computed in longer rows, and come from the cache the second time."""

    def shifted(original, model, batch):
        tensors, fields = original(model, batch)
        tensors["chosen_logps"] = tensors["chosen_logps"] + 0.02  # as rounding to 16 bits does
        return tensors, fields

    config = PairedPreferenceConfig(**arguments(tmp_path, max_steps=1, bf16=True), row_tokens=90)
    trainer = build(PairedPreferenceTrainer, config, tiny_model)
    fail(trainer, 2, 4)
    intercept(trainer.row_objective, "score", shifted)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    trainer.train()
    assert "up to rounding (" in capsys.readouterr().out
