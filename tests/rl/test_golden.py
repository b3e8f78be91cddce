"""Vectors produced by OpenRLHF's and verl's own functions; `golden.json` keeps each one's origin."""

import json
from pathlib import Path

import pytest
import torch

from trl_ext.rl import advantages, kl, rewards

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
CASES = pytest.mark.parametrize("case", GOLDEN["ppo"], ids=[case["id"] for case in GOLDEN["ppo"]])


def tensors(case):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in case["inputs"].items()}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


@CASES
def test_from_log_probabilities_to_whitened_advantages(case):
    inputs, settings, outputs = tensors(case), case["hyperparameters"], case["outputs"]
    mask = inputs["mask"]
    estimator = kl.ESTIMATORS[settings["kl_estimator"]]
    assert_close(estimator(inputs["logps"], inputs["ref_logps"]) * mask, outputs["token_kl"])
    shaped = rewards.shape(
        inputs["scores"], inputs["logps"], inputs["ref_logps"], mask, settings["kl_coef"], settings["kl_estimator"]
    )
    assert_close(shaped, outputs["token_rewards"])
    found, returns = advantages.gae(shaped, inputs["values"], mask, settings["gamma"], settings["lam"])
    assert_close(found, outputs["advantages"])
    assert_close(returns, outputs["returns"])
    assert_close(advantages.whiten(found, mask), outputs["advantages_whitened_unbiased"])


def test_adaptive_controller():
    golden = GOLDEN["adaptive_kl"]
    controller = kl.AdaptiveController(golden["init"], golden["target"], golden["horizon"])
    found = [controller.update(current, golden["n_steps"]) for current in golden["current"]]
    assert found == pytest.approx(golden["value_after"], rel=1e-12)
