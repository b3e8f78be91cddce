"""`example_losses` of a subclass is the loss that is trained and evaluated."""

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import relu

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, relative_difference, weights
from tests.trainers.online import helpers as online
from tests.trainers.rollout.conftest import model  # noqa: F401
from trl_ext.trainers import (
    OnlinePreferenceTrainer,
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)


def hinge(losses, tensors):
    """The hinge loss at β = 0.1, from the log-probabilities."""
    chosen = tensors["chosen_logps"] - tensors["ref_chosen_logps"]
    return relu(1 - 0.1 * (chosen - tensors["rejected_logps"] + tensors["ref_rejected_logps"]))


class HingeTrainer(PairedPreferenceTrainer):
    def example_losses(self, losses, tensors):
        return hinge(losses, tensors)


class ApoTrainer(UnpairedPreferenceTrainer):
    """apo_zero_unpaired at β = 0.1 (arXiv:2408.06266)."""

    def example_losses(self, losses, tensors):
        value = torch.sigmoid(0.1 * (tensors["logps"] - tensors["ref_logps"]))
        return torch.where(tensors["desirable"], 1 - value, value)


@pytest.mark.parametrize(
    ("mine", "loss", "named", "config_class", "packing"),
    [
        (HingeTrainer, "dpo", "hinge", PairedPreferenceConfig, True),
        (HingeTrainer, "dpo", "hinge", PairedPreferenceConfig, False),
        (ApoTrainer, "kto", "apo_zero_unpaired", UnpairedPreferenceConfig, True),
    ],
)
def test_a_loss_of_ones_own_is_trained_and_evaluated(
    mine, loss, named, config_class, packing, tiny_model, tmp_path, capfd
):
    found = {}
    for name, cls, row_tokens in ((named, mine.__mro__[1], "auto"), (loss, mine, 100)):  # in several rows
        config = config_class(**arguments(tmp_path, loss=name, packing=packing, row_tokens=row_tokens, max_steps=2))
        held_out = Dataset.from_list(pairs(6, seed=9))
        trainer = build(cls, config, tiny_model, eval_dataset=held_out)
        trainer.train()
        loss_at_end = trainer.evaluate()["eval_loss"]
        found[name] = weights(trainer), loss_at_end, [log["loss"] for log in trainer.recorder.logs]
    assert relative_difference(found[loss][0], found[named][0]) < 1e-5
    assert found[loss][1] == pytest.approx(found[named][1], rel=1e-5)
    assert found[loss][2] == pytest.approx(found[named][2], rel=1e-5)
    printed = "".join(capfd.readouterr())
    assert f"changed by {mine.__name__}.example_losses" in printed
    assert f"not checked: {mine.__name__}.example_losses changes the loss" in printed
    assert trainer.card_method()["loss changed by"] == f"`{mine.__name__}.example_losses`"


def test_a_loss_that_compares_examples_can_be_changed(tiny_model, tmp_path):
    """Twice the loss has twice the gradient, also where its rows run twice."""

    class Doubled(PairedPreferenceTrainer):
        def example_losses(self, losses, tensors):
            return 2 * losses

    found = []
    for cls in (PairedPreferenceTrainer, Doubled):
        config = PairedPreferenceConfig(**arguments(tmp_path, loss="aot", row_tokens=60, max_steps=1))
        trainer = build(cls, config, tiny_model)
        trainer.train()
        found.append(trainer.recorder.gradients[0])
    assert relative_difference(found[1], {name: 2 * gradient for name, gradient in found[0].items()}) < 1e-6


def test_sampled_pairs_have_the_hook_too(model, tmp_path):  # noqa: F811
    class Online(OnlinePreferenceTrainer):
        def example_losses(self, losses, tensors):
            return hinge(losses, tensors)

    found = []
    for cls, loss in ((OnlinePreferenceTrainer, "hinge"), (Online, "dpo")):
        trainer = online.build(model, online.config(tmp_path, num_generations=2, loss=loss), cls=cls)
        trainer.train()
        found.append(trainer.recorder.gradients[0])
    assert relative_difference(found[1], found[0]) < 1e-6


@pytest.mark.parametrize(
    ("returned", "shown"),
    [(lambda losses: losses.mean(), r"a tensor of shape \(\)"), (lambda losses: 1.0, "a float")],
)
def test_a_mean_is_refused(returned, shown, tiny_model, tmp_path):
    class Mean(PairedPreferenceTrainer):
        def example_losses(self, losses, tensors):
            return returned(losses)

    trainer = build(Mean, PairedPreferenceConfig(**arguments(tmp_path)), tiny_model)
    with pytest.raises(ValueError, match=rf"`example_losses` returned {shown}, and this row has 8 examples"):
        trainer.train()
