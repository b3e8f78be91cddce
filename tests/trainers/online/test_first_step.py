"""The first step's loss is the value its formula gives at policy = reference, and else nothing is trained."""

import pytest
import torch

from tests.trainers.online.helpers import build, config, few_levels
from trl_ext.trainers.common.step_zero import WrongInitialLossError


@pytest.mark.parametrize(("loss", "beta", "known"), [("dpo", 0.5, "0.6931"), ("ipo", 0.3, "2.7778")])  # 1/(4·0.3²)
def test_the_known_value_is_found(model, tmp_path, capsys, loss, beta, known):
    """Over the pairs with a preference alone, whatever the others weigh."""
    args = config(tmp_path, loss=loss, beta=beta, max_steps=2)
    trainer = build(model, args, randomise=False, reward_funcs=few_levels)
    trainer.train()
    assert 0 < trainer.recorder.logs[0]["pairs/ties"] < 1
    printed = capsys.readouterr().out
    assert printed.count(f"first step {known} = {known}, the known value at policy = reference: correct") == 1
    assert printed.count("first step") == 1


def test_another_value_stops_the_run_before_anything_changes(model, tmp_path):
    """A policy whose updates run on another network than its rollouts."""
    trainer = build(model, config(tmp_path), randomise=False)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    layer = trainer.model.get_base_model().model.layers[0].mlp.gate_proj
    layer.register_forward_hook(lambda module, inputs, output: output * (1.5 if torch.is_grad_enabled() else 1.0))
    with pytest.raises(WrongInitialLossError, match=r"The first step's dpo loss is .* its formula .* gives 0\.693147"):
        trainer.train()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_rounding_to_16_bits_stops_no_run_however_much_the_loss_makes_of_it(model, tmp_path, capsys):
    """At β = 100 the loss is far from ln 2, and policy and reference differ by thousandths of a nat per token."""
    args = config(tmp_path, beta=100.0, bf16=True)
    trainer = build(model, args, randomise=False)
    trainer.train()
    printed = capsys.readouterr().out
    assert "= 0.6931 up to rounding (" in printed and printed.count("first step") == 1
    assert not {"apart"} & trainer.recorder.logs[0].keys()

    trainer = build(model, config(tmp_path, bf16=True), randomise=False)
    layer = trainer.model.get_base_model().model.layers[0].mlp.gate_proj
    layer.register_forward_hook(lambda module, inputs, output: output * (1.5 if torch.is_grad_enabled() else 1.0))
    with pytest.raises(WrongInitialLossError, match="The first step's dpo loss"):
        trainer.train()


def test_why_it_was_not_checked_is_said(model, tmp_path, capsys):
    build(model, config(tmp_path, loss="simpo"), randomise=False).train()
    assert "not checked: the expected value depends on the data" in capsys.readouterr().out
    build(model, config(tmp_path)).train()
    assert "not checked: the adapter differs from its reference at the start" in capsys.readouterr().out
    equal = {"reward_funcs": lambda completions, **_: [0.3] * len(completions)}
    build(model, config(tmp_path), randomise=False, **equal).train()
    assert "first step: not checked, because none of its pairs has a preference" in capsys.readouterr().out
