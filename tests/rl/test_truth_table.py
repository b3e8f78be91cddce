"""Every cell of the truth table by enumeration, and that what is said about it is what was found."""

import math
import subprocess
import sys

import pytest
import torch

from tests.rl.helpers import CELLS, bandit, expected_gradient, gradient, language_and_policies
from trl_ext.rl import kl, objectives, truth_table

TOLERANCE = {"rtol": 0, "atol": 1e-9}


def forward_kl(language, ref_logits):
    """KL(ref‖π) of completions as a function of the policy's logits."""
    ref = language.logps(ref_logits).sum(-1)
    return lambda logits: (ref.exp() * (ref - language.logps(logits).sum(-1))).sum()


def at_visited_states(language, logits, ref_logits, divergence):
    """Σ over prefixes of P_π(prefix)·divergence(π(·|prefix), ref(·|prefix)), the visits held fixed."""
    visits = torch.tensor(
        [
            math.prod(
                logits[language.prefixes.index(prefix[:t])].softmax(-1)[prefix[t]].item() for t in range(len(prefix))
            )
            for prefix in language.prefixes
        ],
        dtype=torch.float64,
    )
    ref = ref_logits.log_softmax(-1)
    return lambda x: (visits * divergence(x.log_softmax(-1), ref)).sum()


def reverse(logp, ref):
    return (logp.exp() * (logp - ref)).sum(-1)


def forward(logp, ref):
    return (ref.exp() * (ref - logp)).sum(-1)


@pytest.mark.parametrize("distance", [0.05, 0.6, 2.0])
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_the_gradient_of_every_cell(cell, distance):
    language, logits, ref_logits = language_and_policies(seed=1, distance=distance)
    found = expected_gradient(language, logits, ref_logits, cell)
    whole_reverse = gradient(lambda x: language.kl(x, ref_logits), logits)
    whole_forward = gradient(forward_kl(language, ref_logits), logits)
    reverse_visited, forward_visited = (
        gradient(at_visited_states(language, logits, ref_logits, divergence), logits)
        for divergence in (reverse, forward)
    )
    expected = {
        ("k1", "reward", "token"): whole_reverse,
        ("k1", "reward", "sequence"): whole_reverse,
        ("k2", "loss", "sequence"): whole_reverse,
        ("k1", "loss", "token"): torch.zeros_like(logits),
        ("k1", "loss", "sequence"): torch.zeros_like(logits),
        ("k2", "loss", "token"): reverse_visited,
        ("k3", "loss", "token"): forward_visited,
        ("k3", "loss", "sequence"): whole_forward,
        ("k3", "reward", "sequence"): whole_reverse - whole_forward,
        ("k3", "reward", "token"): whole_reverse - forward_visited,
        ("k3+", "loss", "sequence"): whole_reverse,
        ("k3+", "loss", "token"): reverse_visited,
        ("k3+", "reward", "sequence"): whole_reverse - whole_forward,
        ("k3+", "reward", "token"): whole_reverse - forward_visited,
        ("k2", "reward", "sequence"): k2_in_reward(language, logits, ref_logits, "sequence"),
        ("k2", "reward", "token"): k2_in_reward(language, logits, ref_logits, "token"),
    }[cell]
    torch.testing.assert_close(found, expected, **TOLERANCE)
    error = (found - whole_reverse).norm() / whole_reverse.norm()
    assert (error < 1e-9) == kl.is_exact(*cell)


def k2_in_reward(language, logits, ref_logits, level):
    """∇E_π[f] with f = ½d² (or its sum over tokens) held fixed."""
    d = language.logps(logits) - language.logps(ref_logits)
    held = 0.5 * d.sum(-1) ** 2 if level == "sequence" else (0.5 * d**2).sum(-1)
    return gradient(lambda x: (language.probabilities(x) * held).sum(), logits)


# cos and relative error to the true gradient at the policies near, moderate and far
MEASURED = {
    ("k1", "reward"): ((1, 0), (1, 0), (1, 0)),
    ("k2", "loss"): ((1, 0), (1, 0), (1, 0)),
    ("k3", "loss"): ((1.000, 0.010), (0.949, 0.341), (0.962, 1.22)),
    ("k3", "reward"): ((-0.898, None), (0.658, None), (-0.876, None)),
    ("k2", "reward"): ((-0.890, None), (0.868, None), (0.386, None)),
}


@pytest.mark.parametrize(("estimator", "placement"), MEASURED)
def test_the_four_armed_bandit(estimator, placement):
    for name, (cosine, error) in zip(("near", "moderate", "far"), MEASURED[estimator, placement], strict=True):
        language, logits = bandit(name)
        _, ref_logits = bandit("reference")
        true = gradient(lambda x, ref=ref_logits, toy=language: toy.kl(x, ref), logits)
        found = expected_gradient(language, logits, ref_logits, (estimator, placement, "token"))
        assert torch.cosine_similarity(found.flatten(), true.flatten(), 0).item() == pytest.approx(cosine, abs=1e-3)
        if error is not None:
            assert ((found - true).norm() / true.norm()).item() == pytest.approx(error, abs=5e-3)


def test_k1_in_the_loss_is_noise_of_size_one_not_a_collapse():
    language, logits, ref_logits = language_and_policies()
    per_completion = [
        gradient(
            lambda x, i=i: objectives.kl_loss(
                language.logps(x), language.logps(ref_logits), language.mask, estimator="k1"
            )[i],
            logits,
        )
        for i in range(len(language.tokens))
    ]
    probabilities = language.probabilities(logits)
    mean = sum(p * g for p, g in zip(probabilities, per_completion, strict=True))
    assert mean.norm() < 1e-12
    assert sum(p * g.norm() ** 2 for p, g in zip(probabilities, per_completion, strict=True)) > 0.5


def test_stale_rollouts_need_detached_weights():
    """Samples of π_old: weighted by π/π_old sequence k2 keeps the exact gradient; unweighted it is far off."""
    language, logits, ref_logits = language_and_policies()
    old_logits = language_and_policies(seed=4, distance=0.6)[1]
    old = language.logps(old_logits)
    true = gradient(lambda x: language.kl(x, ref_logits), logits)

    def error(old_logps):
        def loss(x):
            kl_loss = objectives.kl_loss(
                language.logps(x), language.logps(ref_logits), language.mask, old_logps=old_logps
            )
            return (old.sum(-1).exp() * kl_loss).sum()

        return ((gradient(loss, logits) - true).norm() / true.norm()).item()

    assert error(old) < 1e-9
    assert error(None) > 0.1


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_what_is_said(cell):
    text, warning = kl.bias(*cell), kl.warning(*cell)
    assert text.startswith("value ") and "gradient" in text
    assert (warning is None) == kl.is_exact(*cell) == ("exact for whole completions" in text)
    if warning:
        said, remedy = warning.split(". ")
        assert "does not give the gradient of KL(π‖ref): " in said and "k1 in the reward" in remedy
        assert warning.endswith(".") and "\n" not in warning


def test_the_level_follows_from_the_placement():
    assert kl.bias("k2", "loss") == kl.bias("k2", "loss", "sequence") != kl.bias("k2", "loss", "token")
    assert kl.bias("k3", "reward") == kl.bias("k3", "reward", "token")
    assert kl.warning("k2", "loss") is None and kl.warning("k1", "reward") is None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (("k4", "reward"), "no KL estimator 'k4': choose one of k1, k2, k3, k3+"),
        (("k1", "rewards"), "no KL placement 'rewards': choose one of reward, loss"),
        (("k1", "loss", "word"), "no KL level 'word': choose one of token, sequence"),
    ],
)
def test_unknown_names(cell, message):
    with pytest.raises(ValueError, match=message):
        kl.bias(*cell)


def test_the_table_names_the_estimators_there_are():
    assert tuple(kl.ESTIMATORS) == truth_table.ESTIMATOR_NAMES
    assert set(truth_table.GRADIENTS) == set(CELLS)


def test_the_table_imports_no_torch():
    """A recipe is checked with the table before anything heavy is loaded. That the functions import nothing but torch is a
    contract in pyproject.toml.
    """
    code = "import sys; from trl_ext.rl import truth_table; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
