"""Loss, metrics, gradients and weights against `trl.RLOOTrainer`, step for step on the same completions."""

import pytest
import trl

from tests.trainers.parity import both, check_same, nothing_for_some
from trl_ext import RLOOConfig, RLOOTrainer

THEIRS, OURS = (trl.RLOOTrainer, trl.RLOOConfig), (RLOOTrainer, RLOOConfig)

CASES = [
    {},
    {"beta": 0.0, "epsilon_high": 0.1},
    {"beta": 0.3, "normalize_advantages": True},
    {"reward_clip_range": [0.0, 1.5]},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_loss_metrics_gradients_and_weights(case, tiny_model, tmp_path):
    theirs, ours = both(THEIRS, OURS, tiny_model, tmp_path, case)
    check_same(theirs, ours)
    clipped = [log["clip_ratio/region_mean"] for log in theirs.recorder.logs]
    assert clipped[1] > 0 and clipped[0] == 0


@pytest.mark.parametrize(
    "case",
    [{"mask_truncated_completions": True}, {}, {"normalize_advantages": True}],
    ids=["truncated", "without a score", "without a score, normalised"],
)
def test_completions_that_are_left_out_count_in_trls_loss_but_not_in_its_gradient(case, tiny_model, tmp_path):
    """A truncated completion has ratio 1 in TRL, whatever its advantage, so its term of the loss is a constant."""
    rewards = {} if "mask_truncated_completions" in case else {"rewards": nothing_for_some}
    theirs, ours = both(THEIRS, OURS, tiny_model, tmp_path, case, **rewards)
    check_same(theirs, ours, but=("loss", "entropy"))
