"""Losses with running values: BCO against the paper's equation and TRL's trainer; how such values are declared."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.losses.helpers import batch, read_by
from tests.losses.test_registry import NEW_LOSS, extended, message  # noqa: F401
from trl_ext import losses

STEPS = json.loads(Path(__file__).with_name("bco_steps.json").read_text(encoding="utf-8"))


def tensors_of(step):
    values = {k: torch.tensor(v, dtype=torch.float64) for k, v in step.items() if k.endswith("logps")}
    single = {name: torch.cat([values[f"{p}chosen_logps"], values[f"{p}rejected_logps"]]) for name, p in SINGLE}
    return values, single | {"desirable": torch.arange(6) < 3}


SINGLE = (("logps", ""), ("ref_logps", "ref_"))


@pytest.mark.parametrize("name", ["bco", "bco_unpaired"])
def test_bco_steps_of_trl(name):
    """TRL's δ already includes the step itself: ours after the step. Given TRL's δ, the losses are TRL's."""
    loss = losses.get(name, beta=STEPS["beta"])
    state, after = loss.initial_state, []
    for step in STEPS["steps"]:
        paired, single = tensors_of(step)
        tensors = paired if loss.paired else single
        state = loss.next_state(state, **tensors)
        delta = state["delta"] if loss.paired else (state["desirable_mean"] + state["undesirable_mean"]) / 2
        after.append(delta)
        # TRL lists the losses of all chosen, then of all rejected; it keeps δ in float32
        theirs = torch.tensor(step["losses"], dtype=torch.float64)
        expected = theirs.view(2, 3).sum(0) if loss.paired else theirs
        torch.testing.assert_close(loss(**tensors, state=state).losses, expected, atol=1e-6, rtol=0)
    assert after == pytest.approx([step["delta"] for step in STEPS["steps"]], abs=1e-6)


def test_bco_is_the_equation_of_the_paper():
    # −log σ(r_w − δ) − log σ(−(r_l − δ)), r = β log π/π_ref: β = .5, r_w = 1, r_l = −.5, δ = .25.
    loss = losses.get("bco", beta=0.5)
    given = {
        "chosen_logps": [-8.0],
        "ref_chosen_logps": [-10.0],
        "rejected_logps": [-7.0],
        "ref_rejected_logps": [-6.0],
    }
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in given.items()}
    out = loss(**tensors, state={"delta": 0.25, "count": 8.0})
    expected = math.log1p(math.exp(-0.75)) + math.log1p(math.exp(-0.75))
    assert out.losses.item() == pytest.approx(expected, abs=1e-12)
    assert (out.chosen_rewards.item(), out.rejected_rewards.item()) == (1.0, -0.5)
    pair = losses.get("bco_pair", beta=0.5)
    assert loss(**tensors).losses == pair(**tensors).losses  # without a state δ is 0
    single = losses.get("bco_unpaired", beta=0.5, undesirable_weight=3.0)
    out = single(
        logps=torch.tensor([-8.0, -7.0]),
        ref_logps=torch.tensor([-10.0, -6.0]),
        desirable=torch.tensor([True, False]),
        state=single.initial_state | {"desirable_mean": 0.75, "undesirable_mean": -0.25},
    )
    assert out.losses.tolist() == pytest.approx([math.log1p(math.exp(-0.75)), 3 * math.log1p(math.exp(-0.75))])


@pytest.mark.parametrize("momentum", [1.0, 0.8, 0.0])
def test_mean_and_moving_average(momentum):
    loss = losses.get("bco_unpaired", beta=1.0, delta_momentum=momentum)
    rewards = [[1.0, 2.0, 3.0], [4.0], [], [6.0, 8.0]]
    state = loss.initial_state
    for values in rewards:  # all desirable
        logps = torch.tensor([*values, -5.0], dtype=torch.float64)
        state = loss.next_state(
            state, logps=logps, ref_logps=0 * logps, desirable=torch.arange(len(logps)) < len(values)
        )
    plain = 2.0 + 1 / 4 * (4.0 - 2.0)  # means 2; then 1 of 4 values
    expected = {1.0: sum(map(sum, rewards)) / 6, 0.0: 7.0}
    expected[0.8] = plain + 2 / 6 * (7.0 - plain)  # 2 of 6 values weigh more than 1 − .8
    assert state["desirable_mean"] == pytest.approx(expected[momentum])
    assert (state["undesirable_mean"], state["undesirable_count"], state["desirable_count"]) == (-5.0, 4.0, 6.0)


def test_a_mix_keeps_the_values_of_its_parts_apart():
    mix, bco = losses.get({"dpo": 0.5, "bco": 2.0}, beta=0.4), losses.get("bco", beta=0.4)
    tensors = read_by(mix, batch())
    assert mix.initial_state == {"bco": {"delta": 0.0, "count": 0.0}} == mix.info.state
    state = mix.next_state(mix.initial_state, **tensors)
    assert state == {"bco": bco.next_state(bco.initial_state, **read_by(bco, tensors))}
    dpo = losses.get("dpo", beta=0.4)
    apart = 0.5 * dpo(**tensors).losses + 2 * bco(**tensors, state=state["bco"]).losses
    torch.testing.assert_close(mix(**tensors, state=state).losses, apart)


@pytest.mark.parametrize("name", [name for name in losses.available() if losses.describe(name).state])
def test_laws_of_running_values(name):
    """A step changes only declared values, without gradient, and does not depend on the order of its examples."""
    loss = losses.get(name)
    tensors = read_by(loss, batch())
    change = loss.first_state if loss.starts_from_data else loss.next_state
    state = change(loss.initial_state, **tensors)
    assert state.keys() == loss.initial_state.keys() and all(type(value) is float for value in state.values())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    again = change(loss.initial_state, **{k: v if v.ndim == 0 else v[order] for k, v in tensors.items()})
    assert again == pytest.approx(state)


WITH_STATE = (
    NEW_LOSS.replace("rejected_logps, *", "rejected_logps, gap, *").replace(
        "chosen_logps - rejected_logps)", "chosen_logps - rejected_logps - gap)"
    )
    + """
STATE = {"gap": 3.0}


def first_state(chosen_logps, rejected_logps, **_):
    return {"gap": (chosen_logps - rejected_logps).mean()}
"""
)


def test_a_value_of_the_training_set(extended):  # noqa: F811
    (extended / "margin.py").write_text(WITH_STATE)
    loss = losses.get("margin")
    assert loss.inputs == ("chosen_logps", "rejected_logps") and loss.starts_from_data
    tensors = {"chosen_logps": torch.tensor([-1.0, -2.0]), "rejected_logps": torch.tensor([-4.0, -4.0])}
    assert loss(**tensors).losses.tolist() == [-0.0, 1.0]
    state = loss.first_state(loss.initial_state, **tensors)
    assert state == {"gap": 2.5} and loss(**tensors, state=state).losses.tolist() == [-0.5, 0.5]
    assert loss.next_state(state, **tensors) == state


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("def first_state", "def other", "together with a function `next_state`"),
        ("STATE =", "_STATE =", "declared by STATE"),
        ('{"gap": 3.0}', '{"gap": "big"}', "STATE gives gap no number"),
    ],
)
def test_a_wrong_declaration_is_named(extended, old, new, problem):  # noqa: F811
    (extended / "margin.py").write_text(WITH_STATE.replace(old, new))
    assert problem in message(losses.describe, "margin")
