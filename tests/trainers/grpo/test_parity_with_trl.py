"""Loss, metrics, gradients and weights against `trl.GRPOTrainer`, step for step on the same completions."""

import pytest
import trl

from tests.trainers.parity import both, check_same, count_the, nothing_for_some, starting_with_a_letter
from trl_ext import GRPOConfig, GRPOTrainer

THEIRS, OURS = (trl.GRPOTrainer, trl.GRPOConfig), (GRPOTrainer, GRPOConfig)

PER_SEQUENCE = {"importance_sampling_level": "sequence", "epsilon": 0.01}
CASES = [
    {"loss_type": "grpo"},
    {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.3},
    {"loss_type": "dapo", "epsilon_high": 0.1, "beta": 0.3},
    {"loss_type": "bnpo", "scale_rewards": "batch"},
    {"loss_type": "cispo", "epsilon_high": 1.02, "beta": 0.3},
    {"loss_type": "cispo"},
    {"loss_type": "sapo", "sapo_temperature_neg": 2.0, "beta": 0.3},
    {"loss_type": "luspo", **PER_SEQUENCE},
    {"loss_type": "vespo", "vespo_k_neg": 2.0, "vespo_lambda_pos": 1.0, "beta": 0.3},
    {"loss_type": "grpo", **PER_SEQUENCE, "beta": 0.3, "use_bias_correction_kl": False},
    {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False},
    {"loss_type": "grpo", "delta": 1.03, "scale_rewards": False},
    {"loss_type": "grpo", "mask_truncated_completions": True, "beta": 0.3},
    {"loss_type": "dapo", "mask_truncated_completions": True},
    # Without a pass of the old policy on either side:
    {"loss_type": "dapo", "num_iterations": 1, "beta": 0.3},
    {"loss_type": "vespo", "num_iterations": 1},
]


def name(case: dict) -> str:
    return " ".join(f"{key}={value}" if key != "loss_type" else value for key, value in case.items())


@pytest.mark.parametrize("case", CASES, ids=name)
def test_same_loss_metrics_gradients_and_weights(case, tiny_model, tmp_path):
    theirs, ours = both(THEIRS, OURS, tiny_model, tmp_path, case)
    check_same(theirs, ours)
    is_clipped = [log.get("clip_ratio/region_mean") for log in theirs.recorder.logs]
    if case.get("num_iterations") == 1:
        assert not any(is_clipped)
        found, expected = (
            [log.get(key) for log in side.recorder.logs] for side, key in ((ours, "kl/k3"), (theirs, "kl"))
        )
        assert (
            found == expected if None in expected else found == pytest.approx(expected, rel=1e-5)
        )  # without a KL, none
    elif case["loss_type"] in ("grpo", "dr_grpo", "dapo", "bnpo", "luspo"):
        assert is_clipped[1] > 0  # the second epoch leaves the clipping range, or the comparison would prove little
        if "importance_sampling_level" not in case and "delta" not in case and "mask" not in name(case):
            for found, expected in zip(ours.recorder.logs, is_clipped, strict=True):
                assert found["clip_fraction/policy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_completions_without_a_score_are_left_out_alike(scale, tiny_model, tmp_path):
    """They have advantage 0. In TRL their tokens count in the number that the loss is divided by; here they do not."""
    case = {"loss_type": "luspo", "importance_sampling_level": "sequence", "scale_rewards": scale}
    theirs, ours = both(THEIRS, OURS, tiny_model, tmp_path, case, nothing_for_some)
    check_same(theirs, ours, but=("entropy",))


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_several_rewards_are_aggregated_as_in_trl(aggregation, tiny_model, tmp_path):
    case = {"multi_objective_aggregation": aggregation, "reward_weights": [1.0, 0.5], "loss_type": "grpo"}
    theirs, ours = both(THEIRS, OURS, tiny_model, tmp_path, case, [count_the, starting_with_a_letter])
    check_same(theirs, ours)
