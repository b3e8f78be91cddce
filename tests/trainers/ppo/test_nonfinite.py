"""A step of either role that is not finite changes neither role, nor what the optimizer knows of them."""

import copy
import math

import pytest
from transformers import TrainerCallback

from tests.trainers.common.test_nonfinite import same
from tests.trainers.ppo.helpers import build, config
from trl_ext import PPOTrainer
from trl_ext.support.errors import UserError
from trl_ext.trainers.rollout import roles

SETTINGS = {"max_steps": 4, "optim": "adamw_torch", "weight_decay": 0.1, "max_grad_norm": 1.0}


class CriticOverflows(PPOTrainer):
    """In the second step."""

    def _clip_grad_norm(self, model):
        if self.state.global_step == 1:
            self.model.value_head.weight.grad *= math.inf
        return super()._clip_grad_norm(model)


def state(trainer):
    """All that a step may change: both roles, and the optimizer's averages."""
    parameters = [*roles.policy_parameters(trainer.model), *roles.critic_parameters(trainer.model)]
    assert any(p is trainer.model.value_head.weight for p in parameters)
    return dict(enumerate(p.detach().clone() for p in parameters)), copy.deepcopy(
        trainer.optimizer.state_dict()["state"]
    )


class States(TrainerCallback):
    """The state after every step."""

    def __init__(self, trainer):
        self.trainer, self.kept = trainer, []
        trainer.add_callback(self)

    def on_step_end(self, *args, **kwargs):
        self.kept.append(state(self.trainer))


def test_a_lost_critic_stops_both_roles(model, tmp_path):
    trainer = build(model, config(tmp_path, **SETTINGS))
    critic_loss = trainer.update.critic_loss
    trainer.update.critic_loss = lambda *args: critic_loss(*args) * (math.nan if trainer.state.global_step == 1 else 1)
    states = States(trainer)
    with pytest.raises(UserError, match=r"Step 2: the loss is nan\. The step was not taken"):
        trainer.train()
    assert len(states.kept) == 1 and same(state(trainer), states.kept[0])


def test_an_infinite_gradient_of_the_critic_is_left_out(model, tmp_path):
    """The critic is clipped apart: its norm is not the one that transformers looks at."""
    trainer = build(model, config(tmp_path, **SETTINGS, skip_nonfinite_steps=1), cls=CriticOverflows)
    states = States(trainer)
    trainer.train()
    assert [same(a, b) for a, b in zip(states.kept, states.kept[1:], strict=False)] == [True, False, False]
    assert [log.get("skipped_steps") for log in trainer.recorder.logs] == [None, 1, 1, 1]


def test_a_policy_that_cannot_be_sampled_from_is_said_to_be_lost(model, tmp_path):
    trainer = build(model, config(tmp_path, **SETTINGS, learning_rate=1e30))
    with pytest.raises(UserError, match="Lower `learning_rate`"):
        trainer.train()
