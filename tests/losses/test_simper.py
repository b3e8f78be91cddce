"""SimPER against the equation of arXiv:2502.00883, written with Python's own numbers, and against the authors' trainer's values."""

import math

import pytest
import torch

from trl_ext import losses

CHOSEN = [[-0.2, -1.4, -0.3], [-2.0, -0.1, -0.4, -0.7]]  # log-probs per token
REJECTED = [[-1.1, -0.9], [-0.3, -0.2, -0.1]]


def inverse_perplexity(tokens):
    return math.prod(math.exp(token) for token in tokens) ** (1 / len(tokens))


def of(tokens):
    return torch.tensor([math.fsum(row) for row in tokens], dtype=torch.float64, requires_grad=True)


def test_value_gradient_and_rewards():
    chosen, rejected = of(CHOSEN), of(REJECTED)
    lens = [torch.tensor([len(row) for row in tokens]) for tokens in (CHOSEN, REJECTED)]
    out = losses.get("simper")(
        chosen_logps=chosen, rejected_logps=rejected, chosen_lens=lens[0], rejected_lens=lens[1]
    )
    p, q = [*map(inverse_perplexity, CHOSEN)], [*map(inverse_perplexity, REJECTED)]
    assert out.losses.tolist() == pytest.approx([b - a for a, b in zip(p, q, strict=True)], abs=1e-12)
    # `simpo_loss` of scripts/simper_trainer.py in tengxiao1/SimPER at db08c97f, given the same means
    assert out.losses.tolist() == pytest.approx([-0.16294000939057163, 0.36940178896076026], abs=1e-12)
    assert out.chosen_rewards.tolist() == pytest.approx(p) and out.rejected_rewards.tolist() == pytest.approx(q)
    out.losses.sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-a / len(row) for a, row in zip(p, CHOSEN, strict=True)])
    assert rejected.grad.tolist() == pytest.approx([a / len(row) for a, row in zip(q, REJECTED, strict=True)])


def test_it_has_no_hyperparameters_and_no_reference():
    info = losses.describe("simper")
    assert info.hyperparameters == {} and not info.needs_reference
