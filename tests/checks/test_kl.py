"""The optimizer step of a recipe as the table knows it, and the note on one that moves the optimum."""

import pytest

from tests.recipe.helpers import PPO, write
from trl_ext import recipe
from trl_ext.checks.kl import kl_in_words, step_of
from trl_ext.rl.step_table import Step


def load(folder, text, trainer="ppo"):
    return recipe.load(write(folder, text, PPO.replace("trainer: ppo", f"trainer: {trainer}")))


def about_kl(read):
    return [note for note in read.notes if "KL(π‖ref)" in note]


@pytest.mark.parametrize(
    ("trainer", "text", "step"),
    [
        ("ppo", "", Step(level=None, is_whitened=True, lam=0.95)),
        ("ppo", "advantage: rloo\n", Step(advantage="rloo", aggregation="sum", ratio_level="sequence_sum")),
        ("ppo", "advantage: dr_grpo\nkl_placement: loss\nkl_estimator: k2\n", Step("k2", "loss", None, "dr_grpo", "constant")),
        ("ppo", "advantage: grpo\nscale_rewards: batch\n", Step(advantage="grpo", aggregation="sequence", scale_rewards="batch")),
        ("ppo", "advantage: reinforce_pp\ngamma: 0.9\nnormalize_advantages: true\n",
         Step(advantage="reinforce_pp", is_whitened=True, gamma=0.9)),
        ("grpo", "beta: 0.04\n", Step("k3+", "loss", "token", "grpo", "token")),
        ("grpo", "beta: 0.04\nloss_type: dr_grpo\nscale_rewards: false\nuse_bias_correction_kl: false\n",
         Step("k3", "loss", "token", "grpo", "constant", scale_rewards="none")),
        ("rloo", "beta: 0.05\n", Step(advantage="rloo", aggregation="sum", ratio_level="sequence_sum")),
    ],
)  # fmt: skip
def test_the_step_of_a_recipe(tmp_path, trainer, text, step):
    found = step_of(load(tmp_path, text, trainer).effective)
    assert found.cell == step.cell
    names = ("advantage", "aggregation", "is_whitened", "scale_rewards", "ratio_level", "gamma", "lam")
    assert {name: getattr(found, name) for name in names} == {name: getattr(step, name) for name in names}


@pytest.mark.parametrize(
    ("trainer", "text", "begins"),
    [
        ("grpo", "", None),  # TRL's default has no KL
        ("grpo", "beta: 0.04\n", "k3+ in the loss at token level does not give the gradient of KL(π‖ref): "),
        ("grpo", "beta: 0.04\nuse_bias_correction_kl: false\n", "k3 in the loss at token level does not give the gradient"),
        ("rloo", "beta: 0.05\n", None),
        ("ppo", "advantage: grpo\n", None),
        ("ppo", "advantage: grpo\nkl_placement: loss\nkl_estimator: k2\n", "k2 in the loss at sequence level does not lead to"),
        ("ppo", "advantage: rloo\nloss_aggregation: token\nkl_placement: loss\nkl_estimator: k3+\n", None),
        ("ppo", "advantage: rloo\nloss_aggregation: sequence\nkl_placement: loss\nkl_estimator: k3+\n", "k3+ in the loss"),
        ("ppo", "advantage: remax\nloss_aggregation: sequence\n", "k1 in the reward at token level does not lead to"),
        ("ppo", "advantage: remax\nloss_aggregation: sequence\nkl_coef: 0\n", None),
    ],
)  # fmt: skip
def test_one_note_at_most(tmp_path, trainer, text, begins):
    found = about_kl(load(tmp_path, text, trainer))
    assert len(found) == (begins is not None)
    assert all(note.startswith(begins) for note in found)


def test_validate_names_what_a_step_makes_of_the_gradient(tmp_path):
    def gradient(text):
        return kl_in_words(load(tmp_path, text).effective)[1]

    assert gradient("").endswith("(with γ = 1); in an optimizer step: exact up to a factor for large batches")
    assert gradient("advantage: rloo\n").endswith("exact for whole completions (with γ = 1)")
    assert gradient("advantage: dr_grpo\nkl_placement: loss\nkl_estimator: k2\n").endswith(
        "exact for whole completions; in an optimizer step: that of kl_coef·G/(G−1)"
    )
    assert "step" not in gradient("kl_estimator: k3\n")
