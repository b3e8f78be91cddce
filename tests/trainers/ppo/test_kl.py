"""The KL of PPO: every place it can take, its coefficient, its weights on rollouts that are no longer fresh."""

import itertools
import math
import warnings

import pytest
import torch

from tests.trainers.ppo import separate
from tests.trainers.ppo.helpers import build, config, count_the, rollout, trained
from trl_ext.rl import truth_table


@pytest.mark.parametrize(
    "cell", list(itertools.product(*map(truth_table.__dict__.get, ("ESTIMATOR_NAMES", "PLACEMENTS", "LEVELS"))))
)
def test_every_kl_cell_runs_and_a_biased_one_warns_once(model, tmp_path, cell):
    settings = dict(zip(("kl_estimator", "kl_placement", "kl_level"), cell, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = trained(model, tmp_path, steps=2, num_iterations=2, kl_coef=0.5, **settings)
    said = [str(warning.message) for warning in caught if "KL(π‖ref)" in str(warning.message)]
    expected = truth_table.warning(*cell)
    assert said == ([expected] if expected else [])
    assert all(math.isfinite(log["loss"]) for log in trainer.recorder.logs)
    for name in ("kl_loss", "kl_weight/mean", "kl_weight/max"):
        assert (name in trainer.recorder.logs[0]) == (cell[1] == "loss")


def test_a_discounted_kl_is_said_to_be_none(model, tmp_path):
    with pytest.warns(UserWarning, match=r"only with gamma 1\. With gamma 0\.9"):
        trained(model, tmp_path, steps=1, kl_coef=0.5, gamma=0.9)
    assert truth_table.warning("k2", "loss", gamma=0.9) is None


def test_kl_in_the_loss_pulls_towards_the_reference(model, tmp_path):
    """With no reward but the KL, one step of either exact cell lowers the KL; of k1 in the loss it need not."""
    for estimator, placement in (("k1", "reward"), ("k2", "loss")):
        settings = {"kl_estimator": estimator, "kl_placement": placement, "normalize_advantages": False}
        trainer = trained(
            model,
            tmp_path,
            steps=25,
            kl_coef=1.0,
            learning_rate=0.3,
            critic_learning_rate=0.1,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=1,
            trainer_options={"reward_funcs": lambda completions, **_: [0.0] * len(completions)},
            **settings,
        )
        k2 = [log["kl/k2"] for log in trainer.recorder.logs]
        assert sum(k2[-3:]) < 0.5 * sum(k2[:3]), (estimator, placement)


def test_advantages_are_whitened_unless_the_kl_is_in_the_loss(model, tmp_path):
    in_reward = rollout(trained(model, tmp_path))
    whitened = in_reward["token_advantages"][in_reward["loss_mask"].bool()]
    assert whitened.mean().item() == pytest.approx(0, abs=1e-6) and whitened.std().item() == pytest.approx(1, rel=1e-4)
    assert in_reward["loss_kl_coef"] == 0

    settings = {"kl_placement": "loss", "kl_estimator": "k2", "kl_coef": 0.2}
    in_loss = rollout(trained(model, tmp_path, **settings))
    assert in_loss["loss_kl_coef"].item() == pytest.approx(0.2)
    deviation = in_loss["token_advantages"][in_loss["loss_mask"].bool()].std()
    assert abs(deviation - 1) > 1e-2
    # asked for, the KL coefficient is divided by the same number, so that their proportion stays
    both = rollout(trained(model, tmp_path, normalize_advantages=True, **settings))
    assert both["loss_kl_coef"].item() == pytest.approx(0.2 / deviation.item(), rel=1e-4)


@pytest.mark.parametrize("level", ["sequence", "token"])
def test_importance_weights_of_a_kl_in_the_loss_are_logged(model, tmp_path, level):
    """Of completions or tokens of the second epoch, those that no source could score left out."""

    def half(completions, **kwargs):
        return [None if i % 2 else value for i, value in enumerate(count_the(completions))]

    kl = {"kl_estimator": "k2", "kl_placement": "loss", "kl_level": level}
    args = config(tmp_path, max_steps=2, num_iterations=2, learning_rate=0.3, **kl)
    trainer = build(model, args, reward_funcs=half)
    before = separate.WeightsBefore()
    trainer.add_callback(before)
    trainer.train()
    fresh, stale = trainer.recorder.logs
    assert fresh["kl_weight/mean"] == pytest.approx(1, abs=1e-5) and fresh["kl_weight/max"] == pytest.approx(
        1, abs=1e-5
    )
    ratios = torch.cat(separate.log_ratios(model, before.steps[1], trainer._buffered_inputs))
    mask = rollout(trainer)["loss_mask"].bool()
    weights = ratios.sum(1)[mask.any(1)].exp() if level == "sequence" else ratios[mask].exp()
    assert len(weights) == (4 if level == "sequence" else mask.sum()) and weights.max() > 1.05
    assert stale["kl_weight/mean"] == pytest.approx(weights.mean().item(), rel=1e-4)
    assert stale["kl_weight/max"] == pytest.approx(weights.max().item(), rel=1e-4)


def test_the_adaptive_controller_follows_its_formula(model, tmp_path):
    trainer = trained(model, tmp_path, steps=3, kl_controller="adaptive", kl_coef=0.15, kl_target=0.05, kl_horizon=100)
    coefficient = 0.15
    for log in trainer.recorder.logs:
        assert log["kl_coef"] == pytest.approx(coefficient)
        coefficient *= 1 + min(max(log["kl/sequence"] / 0.05 - 1, -0.2), 0.2) * 8 / 100
    assert trainer.kl_controller.value == pytest.approx(coefficient)
