"""How far kinds of training moved whose data holds no completion, or that train scores: PPO, and a reward model."""

import pytest
import torch
from transformers import AutoTokenizer

from tests.runs.movement_helpers import SAVED, measured, rows
from tests.trainers.helpers import arguments, lora
from tests.trainers.ppo import helpers as ppo
from trl_ext.runs.movement import sentence
from trl_ext.trainers import RewardModelConfig, RewardModelTrainer


def of_ppo(model, folder, *, checkpoint=None, **changes):
    args = ppo.config(folder, max_steps=2, **SAVED | changes)
    trainer = ppo.build(model, args, randomise=False)
    return trainer, *measured("ppo", trainer, checkpoint)


def of_rewards(model, folder, *, checkpoint=None, **changes):
    trainer = RewardModelTrainer(
        model=model,
        args=RewardModelConfig(**arguments(folder, max_steps=2, **SAVED | changes)),
        **rows(),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=lora(task_type="SEQ_CLS"),
    )
    return trainer, *measured("reward", trainer, checkpoint)


@pytest.fixture(scope="module")
def sampled(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo")
    return folder, *of_ppo(tiny_model, folder, learning_rate=0.3)


def test_completions_are_those_of_the_policy_at_the_start(sampled):
    _, trainer, movement, moved = sampled
    prompts = [trainer.processing_class(text)["input_ids"] for text in trainer.train_dataset["prompt"][:16]]
    largest = n = 0
    for (ids,), prompt in zip(movement._examples, prompts, strict=True):
        assert ids[: len(prompt)] == prompt and len(prompt) < len(ids) <= len(prompt) + 6  # `max_completion_length`
        row = torch.tensor([ids])
        with torch.no_grad():
            now = trainer.model(input_ids=row).logits
            with trainer.model.disable_adapter():
                before = trainer.model(input_ids=row).logits
        apart = (now.log_softmax(-1) - before.log_softmax(-1))[:, :-1].gather(2, row[:, 1:, None])
        largest, n = max(largest, apart.abs().max().item()), n + len(ids) - 1
    assert moved.largest == pytest.approx(largest, rel=1e-3) and moved.n == n and not moved.is_nothing


def test_a_resumed_ppo_run_is_measured_on_the_same_completions(sampled, tiny_model, tmp_path):
    folder, _, movement, moved = sampled
    _, again, result = of_ppo(tiny_model, tmp_path, learning_rate=0.3, checkpoint=str(folder / "checkpoint-1"))
    assert again._examples == movement._examples
    assert result.largest == pytest.approx(moved.largest, rel=1e-3)


def test_ppo_is_trained_as_without_the_measurement(sampled, tiny_model, tmp_path):
    _, trainer, _, _ = sampled
    plain = ppo.build(tiny_model, ppo.config(tmp_path, max_steps=2, learning_rate=0.3), randomise=False)
    plain.train()
    found = dict(plain.model.named_parameters())
    assert all(torch.equal(value, found[name]) for name, value in trainer.model.named_parameters())
    assert all(value.requires_grad == found[name].requires_grad for name, value in trainer.model.named_parameters())


def test_a_policy_that_stays_where_it_is(tiny_model, tmp_path):
    _, _, moved = of_ppo(tiny_model, tmp_path, learning_rate=1e-7, save_strategy="no")
    assert moved.is_nothing and "so the model writes what it wrote before" in sentence(moved, 2, 1e-7)


def test_a_reward_model_is_measured_by_its_preferences(tiny_model, tmp_path):
    trainer, _, moved = of_rewards(tiny_model, tmp_path, learning_rate=0.3)

    def preferences():
        rows = [[torch.tensor([row[name]]) for name in ("chosen_ids", "rejected_ids")] for row in trainer.eval_dataset]
        with torch.no_grad():
            margins = torch.tensor(
                [trainer.model(w).logits.item() - trainer.model(lost).logits.item() for w, lost in rows]
            )
        return torch.nn.functional.logsigmoid(margins)

    now = preferences()
    with trainer.model.disable_adapter():
        before = preferences()
    assert moved.largest == pytest.approx((now - before).abs().max().item(), rel=1e-3)
    assert moved.n == 3 and moved.is_held_out and not moved.is_nothing
    again = of_rewards(tiny_model, tmp_path, learning_rate=1e-7, save_strategy="no")[2]
    said = sentence(again, 2, 1e-7)
    assert again.is_nothing and "(3 held-out pairs), so the model scores as it did before." in said
