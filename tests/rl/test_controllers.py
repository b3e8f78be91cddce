"""KL coefficients over a run; the adaptive one's numbers are in test_golden.py."""

import pytest
import torch

from trl_ext.rl import kl


def test_the_fixed_one_stays():
    controller = kl.FixedController(0.05)
    assert controller.update(100.0, 512) == controller.value == 0.05


def test_at_its_target_the_adaptive_one_stays():
    controller = kl.AdaptiveController(0.1, target=6.0, horizon=100)
    assert controller.update(6.0, 50) == controller.value == 0.1


def test_the_step_grows_with_the_completions_and_with_the_error_up_to_a_fifth():
    """1 + .1·50/100 for a KL a tenth above its target, 1 + .2·50/100 for anything from a fifth above on."""
    for current, factor in ((6.6, 1.05), (7.2, 1.1), (600.0, 1.1), (0.0, 0.9)):
        controller = kl.AdaptiveController(0.1, target=6.0, horizon=100)
        assert controller.update(current, 50) == pytest.approx(0.1 * factor)


def test_per_completion_sums_are_averaged():
    sums = torch.tensor([3.0, 9.0, 7.8])
    by_sums, by_mean = (kl.AdaptiveController(0.1, 6.0, 100) for _ in range(2))
    assert by_sums.update(sums, 3) == pytest.approx(by_mean.update(6.6, 3))


def test_the_coefficient_survives_a_checkpoint():
    controller = kl.AdaptiveController(0.1, target=6.0, horizon=100)
    controller.update(12.0, 64)
    resumed = kl.AdaptiveController(0.1, target=6.0, horizon=100)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.update(3.0, 64) == controller.update(3.0, 64)


@pytest.mark.parametrize(("target", "horizon"), [(0, 100), (6.0, 0), (-1, 100)])
def test_target_and_horizon_must_be_positive(target, horizon):
    with pytest.raises(ValueError, match=f"above 0, not {target} and {horizon}"):
        kl.AdaptiveController(0.1, target, horizon)
