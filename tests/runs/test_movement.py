"""How far a run moved: against a plain model, at a rate that changes nothing, after a resume; what a run prints then."""

import pytest
import torch
from transformers import AutoTokenizer

from tests.runs.movement_helpers import SAVED, measured, rows
from tests.trainers.helpers import arguments, lora, weights
from trl_ext.cli import main
from trl_ext.methods import METHODS
from trl_ext.runs import movement_examples
from trl_ext.runs.movement import Moved, Movement, sentence
from trl_ext.support.run_log import log
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer

SETTINGS = {"max_steps": 2, "per_device_train_batch_size": 4, **SAVED}


def made(model, folder, adapter=None, **changes):
    return PairedPreferenceTrainer(
        model=model,
        args=PairedPreferenceConfig(**arguments(folder, **SETTINGS | changes)),
        **rows(),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=adapter or lora(),
    )


def trained(model, folder, *, checkpoint=None, **changes):
    trainer = made(model, folder, **changes)
    before = weights(trainer)
    _, moved = measured("paired", trainer, checkpoint)
    return trainer, moved, before


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, *trained(tiny_model, folder, learning_rate=1.0)


def test_it_is_the_largest_change_of_a_held_out_token(run):
    _, trainer, moved, _ = run
    largest, tokens = 0.0, 0
    for row in trainer.eval_dataset:
        ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
        logps = []
        for adapter_is_on in (True, False):
            with torch.no_grad(), trainer.model.disable_adapter() if not adapter_is_on else torch.no_grad():
                logits = trainer.model(input_ids=ids).logits[:, :-1]
            logps.append(logits.log_softmax(-1).gather(2, ids[:, 1:, None]))
        largest, tokens = max(largest, (logps[0] - logps[1]).abs().max().item()), tokens + ids.shape[1] - 1
    assert moved.largest == pytest.approx(largest, rel=1e-3) and moved.n == tokens
    assert moved.is_held_out and not moved.is_nothing and moved.noise < 1e-4


def test_a_resumed_run_is_measured_against_its_start(run, tiny_model, tmp_path):
    folder, _, moved, _ = run
    _, again, _ = trained(tiny_model, tmp_path, learning_rate=1.0, checkpoint=str(folder / "checkpoint-1"))
    assert again.largest == pytest.approx(moved.largest, rel=1e-3)


def test_weights_that_move_too_little(tiny_model, tmp_path):
    trainer, moved, before = trained(tiny_model, tmp_path, learning_rate=1e-6)
    assert any(not torch.equal(value, before[name]) for name, value in weights(trainer).items())
    assert moved.is_nothing and moved.largest < 1e-3


def test_measuring_leaves_training_as_it_is(tiny_model, tmp_path):
    found = []
    for is_measured in (False, True):
        torch.manual_seed(0)
        trainer = made(tiny_model, tmp_path, lora(lora_dropout=0.5), save_strategy="no", disable_dropout=False)
        movement = Movement(trainer, METHODS["paired"])
        if is_measured:
            trainer.add_callback(movement)
        trainer.model.train()
        modes = [module.training for module in trainer.model.modules()]
        drawn = torch.random.get_rng_state()
        movement.on_train_begin(trainer.args, trainer.state, trainer.control) if is_measured else None
        assert torch.equal(torch.random.get_rng_state(), drawn)
        assert [module.training for module in trainer.model.modules()] == modes
        trainer.train()
        found.append(weights(trainer))
    assert movement.measure().n > 0
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_of_a_long_prompt_the_end_and_of_its_completion_the_beginning():
    long, n = list(range(1000)), movement_examples.TOKENS
    wanted = long[500 - n : 500 + n]
    pair = {"prompt_ids": long[:500], "chosen_ids": long[500:]}
    assert movement_examples.around_its_beginning(pair, "chosen_ids") == wanted
    demonstration = {"input_ids": long, "labels": [-100] * 500 + long[500:]}
    assert movement_examples.around_its_beginning(demonstration, "input_ids") == wanted
    assert movement_examples.around_its_beginning({"prompt_ids": [1], "chosen_ids": [2]}, "chosen_ids") == [1, 2]


def test_an_error_is_logged_and_costs_no_result(tiny_model, tmp_path, monkeypatch):
    trainer = made(tiny_model, tmp_path, save_strategy="no")
    movement = Movement(trainer, METHODS["paired"])
    movement.on_train_begin(trainer.args, trainer.state, trainer.control)
    said = []
    monkeypatch.setattr(log, "add", said.append)
    trainer.train_dataset = trainer.eval_dataset = None  # not read again
    assert movement.measure().largest == 0

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(movement._of, "values", fail)
    assert movement.measure() is None
    assert said == ["How far the run moved its policy was not measured (RuntimeError: out of memory)."]
    other = Movement(trainer, METHODS["paired"])
    other.on_train_begin(trainer.args, trainer.state, trainer.control)
    assert other.measure() is None and len(said) == 2


def test_rounding_is_no_movement():
    assert not Moved(largest=0.2, noise=0.05, n=10, is_held_out=False).is_nothing
    moved = Moved(largest=0.1, noise=0.05, n=10, is_held_out=False)
    assert moved.is_nothing
    said = sentence(moved, 1, 1e-6)
    assert "(10 training tokens)" in said and "Rounding alone changes it by up to 0.05." in said
    assert said.endswith("Raise `learning_rate`, which is 1e-06, or train longer.")
    untaught = sentence(moved, 1, 1e-6, "the completions of each prompt had equal scores")
    assert untaught.endswith(
        " The completions of each prompt had equal scores, so there was nothing to learn from at any learning rate."
    )
    assert "Raise" not in untaught


def test_a_run_says_so_in_place_of_its_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measure, there = Movement.measure, set()
    monkeypatch.setattr(
        Movement,
        "measure",
        lambda self: there.update(path.name for path in (tmp_path / "run").iterdir()) or measure(self),
    )
    assert main(["run", "demo", "--learning_rate", "1e-6", "--max_steps", "1", "--output_dir", "run"]) == 0
    assert {"adapter_model.safetensors", "README.md"} <= there  # an error could cost no result
    printed = " ".join(capsys.readouterr().out.split())
    assert "Nothing was learned. After 1 step, no token's log-probability differs from the start" in printed
    assert "Raise `learning_rate`, which is 1e-06, or train longer." in printed
    assert "true reward" not in printed and "Usual rates for dpo are 0.0005 to 0.005" in printed
