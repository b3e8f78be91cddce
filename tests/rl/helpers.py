"""A small language with a policy away from its reference, and gradients by enumeration."""

import torch

from trl_ext.rl import objectives
from trl_ext.rl.enumerable import Language

CELLS = [
    (e, p, level) for e in ("k1", "k2", "k3", "k3+") for p in ("reward", "loss") for level in ("token", "sequence")
]
BANDIT = {
    "reference": (0.4, 0.3, 0.2, 0.1),
    "near": (0.38, 0.31, 0.205, 0.105),
    "moderate": (0.15, 0.25, 0.2, 0.4),
    "far": (0.02, 0.03, 0.05, 0.9),
}


def bandit(name):
    """A language of four one-token completions, and the logits of the named policy on it."""
    return Language(4, 1), torch.tensor([BANDIT[name]], dtype=torch.float64).log()


def language_and_policies(seed=0, distance=0.6, n_tokens=3, length=3):
    """A language, its reference and a policy whose logits differ from the reference's by N(0, distance²)."""
    language = Language(n_tokens, length)
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(language.logits_shape, generator=generator, dtype=torch.float64)

    ref_logits = 0.7 * normal()
    return language, ref_logits + distance * normal(), ref_logits


def expected_gradient(language, logits, ref_logits, cell):
    """E_π of the gradient a cell gives per completion, by summing over all completions."""
    estimator, placement, level = cell
    logits = logits.clone().requires_grad_()
    per_completion = objectives.kl_surrogate(
        language.logps(logits),
        language.logps(ref_logits),
        language.mask,
        estimator=estimator,
        placement=placement,
        level=level,
    )
    return torch.autograd.grad((language.probabilities(logits).detach() * per_completion).sum(), logits)[0]


def gradient(function, logits):
    """Of a scalar function of the logits."""
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]
