"""TDPO against the authors' function, and which of its parts carry a gradient."""

import pytest
import torch

from tests.losses.helpers import batch, read_by
from trl_ext import losses

LOG_RATIOS = [0.4, -1.2, 2.5], [-0.3, 0.8, -4.0]
DIVERGENCES = [0.2, 1.5, 0.7], [0.9, 0.4, 3.1]
# `tdpo_loss` of trainers.py in Vance0124/Token-level-Direct-Preference-Optimization at 2a736ecb, with β = .3 and α = .5
EXPECTED = {
    "tdpo2": [0.6420246729486955, 0.9341161347503184, 0.18558756070399335],
    "tdpo1": [0.6931471805599453, 0.8372321351223193, 0.25641783303708754],
}
REWARDS = [0.18, 0.09, 0.96], [0.18, 0.36, -0.27]


def tensors():
    values = {"ref_chosen_logps": [-9.0] * 3, "ref_rejected_logps": [-8.0] * 3}
    values["chosen_logps"] = [x - 9 for x in LOG_RATIOS[0]]
    values["rejected_logps"] = [x - 8 for x in LOG_RATIOS[1]]
    values |= {"chosen_kl": DIVERGENCES[0], "rejected_kl": DIVERGENCES[1]}
    return {name: torch.tensor(row, dtype=torch.float64, requires_grad=True) for name, row in values.items()}


@pytest.mark.parametrize("form", EXPECTED)
def test_values_and_gradients(form):
    given = tensors()
    out = losses.get("tdpo", beta=0.3, loss_form=form)(**given)
    assert out.losses.tolist() == pytest.approx(EXPECTED[form], abs=1e-12)
    assert out.chosen_rewards.tolist() == pytest.approx(REWARDS[0])
    assert out.rejected_rewards.tolist() == pytest.approx(REWARDS[1])
    out.losses.sum().backward()
    # x = β(h − drift): d/dh = −β(1 − e^(−loss)); d/dK_l = −α d/dh; d/dK_w is 0 in the second form
    by_margin = -0.3 * (1 - (-out.losses.detach()).exp())
    torch.testing.assert_close(given["chosen_logps"].grad, by_margin)
    weight = {"tdpo2": 0.5, "tdpo1": 1.0}[form]
    torch.testing.assert_close(given["rejected_kl"].grad, -weight * by_margin)
    if form == "tdpo1":
        torch.testing.assert_close(given["chosen_kl"].grad, by_margin)
    else:
        assert given["chosen_kl"].grad is None


def test_without_the_divergences_it_is_dpo():
    tdpo, dpo = losses.get("tdpo", tdpo_alpha=0), losses.get("dpo")
    torch.testing.assert_close(tdpo(**read_by(tdpo, batch())).losses, dpo(**read_by(dpo, batch())).losses)
    assert tdpo.reads_distributions and tdpo.needs_reference and not dpo.reads_distributions
