"""One base, several roles: gradients, memory and clipping of each, against separate models."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import nf4, relative_difference
from tests.trainers.ppo import separate
from tests.trainers.ppo.helpers import build, config
from tests.trainers.ppo.separate import is_critic, is_trained
from trl_ext import PPOTrainer
from trl_ext.trainers.rollout import roles

CHECKPOINTING = {
    "kept": {"gradient_checkpointing": False},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "not reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
}


@pytest.mark.parametrize("quantization", [None, nf4()], ids=["float32 base", "NF4 base"])
@pytest.mark.parametrize("how", CHECKPOINTING)
def test_gradients_are_those_of_two_separate_models(model, tmp_path, how, quantization):
    """In the second epoch over a rollout, when ratios and value clipping matter and a stale gradient would show.

    The separate models quantise the base each for itself, to the same numbers.
    """
    args = config(tmp_path, max_steps=2, num_iterations=2, learning_rate=0.3, **CHECKPOINTING[how])
    trainer = build(model, args, quantization_config=quantization)
    before = separate.WeightsBefore()
    trainer.add_callback(before)
    trainer.train()
    weights, measured = before.steps[1], trainer.recorder.gradients[1]

    expected = separate.gradients(model, weights, trainer._buffered_inputs, quantization)
    assert measured.keys() == expected.keys()
    for is_role in (is_critic, lambda name: not is_critic(name)):
        part = [{name: g for name, g in gradients.items() if is_role(name)} for gradients in (measured, expected)]
        assert relative_difference(*part) < 1e-5


def test_each_loss_reaches_its_own_role_alone(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=1))
    trainer.train()
    batch = trainer._buffered_inputs[0]
    trainer.update.learn_as(roles.CRITIC, batch, accumulation=2)
    assert {name for name, p in trainer.model.named_parameters() if p.grad is not None} == {
        name for name, _ in trainer.model.named_parameters() if is_critic(name)
    }
    trainer.model.zero_grad()
    trainer.update.learn_as(roles.POLICY, batch, accumulation=2)
    assert {name for name, p in trainer.model.named_parameters() if p.grad is not None} == {
        name for name, _ in trainer.model.named_parameters() if ".default." in name
    }


def test_gradients_do_not_pile_up_over_steps(model, tmp_path):
    """Three steps on one rollout with learning rates of 0 have the same gradients, the value head's among them."""
    args = config(tmp_path, max_steps=3, num_iterations=3, learning_rate=0.0, critic_learning_rate=0.0)
    trainer = build(model, args)
    trainer.train()
    first, second, third = trainer.recorder.gradients
    assert first["value_head.weight"].norm() > 0 and first["value_head.bias"] != 0
    for later in (second, third):
        assert relative_difference(later, first) < 1e-5
    assert all(parameter.grad is None for parameter in trainer.model.parameters())  # zeroed after the last step too


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
def test_the_value_head_is_moved_by_its_own_loss_alone(model, tmp_path, optimizer):
    trained = {}
    for vf_coef in (0.0, 0.1):
        args = config(tmp_path, max_steps=3, num_iterations=3, learning_rate=0.1, vf_coef=vf_coef, optim=optimizer)
        trainer = build(model, args)
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if is_trained(name)}
        trainer.train()
        after = dict(trainer.model.named_parameters())
        trained[vf_coef] = {name for name, weight in before.items() if not torch.equal(after[name], weight)}
    policy = {name for name in before if not is_critic(name)}
    assert trained[0.0] == policy
    assert trained[0.1] >= {*policy, "value_head.weight", "value_head.bias"}


def test_the_4_bit_base_stays_bit_identical_and_exists_once(model, tmp_path):
    trainer = build(model, config(tmp_path, num_iterations=2, gradient_checkpointing=True), quantization_config=nf4())
    base = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if not is_trained(name)}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], parameter) for name, parameter in base.items())
    assert not any(parameter.requires_grad for name, parameter in after.items() if name in base)

    def stored(parameters) -> int:
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parameters}
        return sum(storages.values())

    alone = AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4())
    adapters = stored(p for name, p in after.items() if is_trained(name))
    assert stored(after.values()) == stored(alone.parameters()) + adapters
    # two adapters of the same shape and a head of H + 1 numbers
    policy = stored(p for name, p in after.items() if ".default." in name)
    assert adapters == 2 * policy + 4 * (alone.config.hidden_size + 1)


def test_policy_and_critic_are_clipped_apart(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=1, max_grad_norm=1e-3))
    trainer.train()
    gradients = trainer.recorder.gradients[0]
    for is_role in (is_critic, lambda name: not is_critic(name)):
        norm = torch.stack([g.norm() for name, g in gradients.items() if is_role(name)]).norm()
        torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-3, atol=0)
    # the norms before clipping, each role's own
    log = trainer.recorder.logs[0]
    assert log["grad_norm"] > 1e-3 and log["grad_norm/critic"] > 1e-3
    assert log["grad_norm"] != log["grad_norm/critic"]


def test_each_role_has_its_learning_rate(model, tmp_path):
    args = config(tmp_path, max_steps=1, learning_rate=0.01, critic_learning_rate=0.5, weight_decay=0.1)
    trainer = build(model, args)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if is_trained(name)}
    trainer.train()
    after, gradients = dict(trainer.model.named_parameters()), trainer.recorder.gradients[0]
    for name, weight in before.items():
        rate = 0.5 if is_critic(name) else 0.01
        decay = 0.0 if name.endswith("bias") else 0.1
        expected = weight - rate * (gradients[name] + decay * weight)
        torch.testing.assert_close(after[name].detach(), expected)


def test_a_fresh_critic_says_zero_and_the_policy_is_the_reference(model, tmp_path):
    trainer = build(model, config(tmp_path, max_steps=1), randomise=False)
    trainer.train()
    log = trainer.recorder.logs[0]
    assert log["values/mean"] == 0 and log["explained_variance"] == 0
    assert [log[f"kl/{name}"] for name in ("k1", "k2", "k3", "sequence")] == [0, 0, 0, 0]


def test_only_the_acting_role_requires_gradients(model, tmp_path):
    trainer = build(model, config(tmp_path))
    named = dict(trainer.model.named_parameters())

    def trainable() -> set[str]:
        return {name for name, parameter in named.items() if parameter.requires_grad}

    policy = {name for name in named if ".default." in name}
    assert trainable() == policy
    with roles.acting_as(trainer.model, roles.CRITIC):
        assert trainable() == {name for name in named if is_critic(name)}
    with trainer.model.disable_adapter():
        pass
    assert trainable() == policy


def test_every_role_computes_in_16_bits_where_the_policy_does(model, tmp_path):
    """The critic and the reward model run the backbone past the model's own forward, which alone has autocast."""
    seen = {}

    class Watched(PPOTrainer):
        def train(self):
            backbone = self.model.get_base_model().base_model
            handle = backbone.register_forward_pre_hook(
                lambda *_: seen.setdefault(self.model.active_adapter, []).append(torch.is_autocast_enabled("cpu"))
            )
            super().train()
            handle.remove()

    build(model, config(tmp_path, max_steps=1, bf16=True), cls=Watched).train()
    assert all(seen[roles.CRITIC]) and len(seen[roles.CRITIC]) == 2  # values of the rollout, and the update
    assert any(seen[roles.POLICY])
