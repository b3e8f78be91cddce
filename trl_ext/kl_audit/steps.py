"""Enumerate the expected gradient of an optimizer step, from the functions that training uses.

`classify` finds the verdict of `trl_ext.rl.step_table` for any settings, an advantage that the table does not know included.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from trl_ext.rl import advantages, aggregation, masked, objectives, rewards, step_table
from trl_ext.rl.enumerable import Language, samples
from trl_ext.rl.step_table import Step

WHITENING_EPSILON = 1e-8  # that of the trainer
ROUNDING = 1e-7
"""Relative size below which a gradient, or a difference of gradients, is zero."""


class Task(NamedTuple):
    """A language, its reference logits (P, V), and scores (N,) and a KL coefficient, which define the optimum π*."""

    language: Language
    ref_logits: Tensor
    scores: Tensor
    kl_coef: float

    def optimum(self) -> Tensor:
        """Probabilities (N,) of π*."""
        return self.language.optimum(self.ref_logits, self.scores, self.kl_coef)

    def gradients(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """∇E[score] and ∇KL(π‖ref), (P·V,) each."""
        logits = logits.detach().requires_grad_()
        score = (self.language.probabilities(logits) * self.scores).sum()
        kl = self.language.kl(logits, self.ref_logits)
        return tuple(torch.autograd.grad(each, logits)[0].flatten() for each in (score, kl))

    def distance(self, logits: Tensor) -> float:
        """Total variation between a policy and π*."""
        return (self.language.probabilities(logits) - self.optimum()).abs().sum().item() / 2


class Steps:
    """The optimizer steps that settings make of completions of one policy, before any of them is taken.

    A critic is taken to be right: its values are the expected rewards to go.

    Args:
        logits: (P, V), of the policy.
        size: Completions per prompt.
    """

    def __init__(self, task: Task, logits: Tensor, step: Step, size: int) -> None:
        self.task, self.step, self.size = task, step, size
        self.logits = logits.detach().requires_grad_()
        self.logps, self.ref_logps = task.language.logps(self.logits), task.language.logps(task.ref_logits)
        self.probabilities = self.logps.detach().sum(-1).exp()
        self._rewards = self._shaped_rewards()
        self._values = self._expected_to_go()
        self._greedy_reward = self._rewards[task.language.greedy(self.logits.detach())].sum()
        info, function = advantages.describe(step.advantage), advantages.get(step.advantage)
        hyperparameters = {name: getattr(step, name) for name in info.hyperparameters if hasattr(step, name)}
        self._advantage = partial(function, **hyperparameters)
        self._inputs, self._needs_critic = info.inputs, info.needs_critic

    def gradient(self, batches: list[Tensor], chances: Tensor) -> Tensor:
        """Expected ascent direction (P·V,) of a step.

        Args:
            batches: The batches that a step can have, by the indices of their completions, those of a prompt adjacent.
            chances: (K,), their probabilities.
        """
        parts = [self._part(rows, chance) for rows, chance in zip(batches, chances, strict=True)]
        rows = torch.cat(batches)
        given, weights, kl_coefs = (torch.cat(each) for each in zip(*parts, strict=True))
        mask, logps = self.task.language.mask[rows], self.logps[rows]
        losses = objectives.policy_loss(logps, logps.detach(), given, mask, level=self.step.ratio_level).losses.sum(-1)
        if not self.step.is_in_reward:
            estimator, _, level = self.step.cell
            losses = losses + kl_coefs * objectives.kl_loss(
                logps, self.ref_logps[rows], mask, estimator=estimator, level=level
            )
        return -torch.autograd.grad((weights * losses).sum(), self.logits, retain_graph=True)[0].flatten()

    def _part(self, rows: Tensor, chance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advantages (B, C) of a batch; weights (B,) of the completions in the expected loss; KL coefficients (B,)."""
        mask = self.task.language.mask[rows]
        tensors = {
            "rewards": self._rewards[rows],
            "mask": mask,
            "groups": torch.arange(len(rows)) // self.size,
            "values": self._values[rows],
            "greedy_rewards": self._greedy_reward.expand(len(rows)),
        }
        given = self._advantage(*(tensors[name] for name in self._inputs))
        given = given[0] if self._needs_critic else given
        kl_coef = torch.tensor(self.task.kl_coef, dtype=given.dtype)
        if self.step.is_whitened:
            _, variance = masked.moments(given, mask)
            given = masked.whiten(given, mask, epsilon=WHITENING_EPSILON)
            kl_coef = kl_coef * (variance + WHITENING_EPSILON).rsqrt()
        weights = aggregation.weights(mask, self.step.aggregation, max_length=mask.size(1)).to(given.dtype)
        return given, chance * weights / len(rows), kl_coef.expand(len(rows))

    def _shaped_rewards(self) -> Tensor:
        """Rewards per token (N, C)."""
        estimator, _, level = self.step.cell
        placed = {"kl_coef": self.task.kl_coef, "estimator": estimator, "level": level}
        return rewards.shape(
            self.task.scores,
            self.logps,
            self.ref_logps,
            self.task.language.mask,
            **(placed if self.step.is_in_reward else {"kl_coef": 0.0}),
        )

    def _expected_to_go(self) -> Tensor:
        """Values (N, C): the mean rewards to go at each prefix."""
        to_go, _ = advantages.gae(
            self._rewards, torch.zeros_like(self._rewards), self.task.language.mask, gamma=self.step.gamma, lam=1.0
        )
        return self.task.language.mean_at(to_go, self.probabilities)


def expected_gradient(task: Task, logits: Tensor, step: Step, size: int = 2) -> Tensor:
    """Expected ascent direction (P·V,) of a step of one prompt with `size` completions: the sum over all of them."""
    steps = Steps(task, logits, step, size)
    rows, orders = samples(len(task.language.tokens), size)
    return steps.gradient(list(rows), orders * steps.probabilities[rows].prod(-1))


def large_batch_gradient(task: Task, logits: Tensor, step: Step, size: int = 2, units: int = 16) -> Tensor:
    """Ascent direction (P·V,) of a step whose prompts have every group of completions in proportion to its probability.

    Args:
        units: Probabilities are rounded to multiples of 1/units. The step has units^size prompts.
    """
    steps = Steps(task, logits, step, size)
    counts = largest_remainders(steps.probabilities, units)
    completions = torch.arange(len(counts)).repeat_interleave(counts)
    return steps.gradient([torch.cartesian_prod(*[completions] * size).flatten()], torch.ones(1, dtype=torch.float64))


def largest_remainders(probabilities: Tensor, units: int) -> Tensor:
    """Whole numbers (N,) with the sum `units`, nearest to `units` times the probabilities."""
    exact = probabilities * units
    counts = exact.round(decimals=6).floor().long()
    counts[(exact - counts).argsort(descending=True)[: units - int(counts.sum())]] += 1
    return counts


def ascend(
    task: Task, direction: Callable[[Tensor], Tensor], n_steps: int = 120, learning_rate: float = 0.1
) -> tuple[Tensor, float]:
    """Train a policy from the reference on, without noise, by Adam with a learning rate that falls to 0.

    Args:
        direction: The expected ascent direction (P·V,) at logits (P, V).

    Returns:
        The logits (P, V), and the total variation between the policy and π*.
    """
    logits = task.ref_logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, n_steps)
    for _ in range(n_steps):
        logits.grad = -direction(logits).view_as(logits)
        optimizer.step()
        schedule.step()
    return logits.detach(), task.distance(logits.detach())


@dataclass(frozen=True)
class Measured:
    """What enumeration finds about a step.

    Attributes:
        verdict: A key of `step_table.VERDICTS`.
        factor: The gradient's length divided by that of the objective's gradient; `None` where they are not parallel.
        coefficient: KL coefficient of the objective whose gradient it is, if that is another one.
        cosine: Cosine of the expected gradient of a step with two completions of a prompt with the objective's gradient.
    """

    verdict: str
    factor: float | None
    coefficient: float | None
    cosine: float


def example() -> tuple[Task, Tensor]:
    """A task with five completions of one to four tokens, and the logits (P, V) of a policy whose probabilities are sixteenths."""
    language = Language(2, 4)
    generator = torch.Generator().manual_seed(8)
    ref_logits, scores = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in (language.logits_shape, len(language.tokens))
    )
    policy = torch.tensor([4, 5, 1, 4, 2], dtype=torch.float64) / 16
    return Task(language, 0.7 * ref_logits, scores, 1.0), language.logits(policy)


def classify(step: Step) -> Measured:
    """Find the verdict on a step by enumeration on the example."""
    task, logits = example()
    score, kl = task.gradients(logits)
    true = score - task.kl_coef * kl
    few = expected_gradient(task, logits, step)
    cosine = torch.cosine_similarity(few, true, 0).item()
    many = large_batch_gradient(task, logits, step)
    for verdict, found in ((step_table.FACTOR, few), (step_table.LARGE_BATCH, many)):
        factor = (found @ true / true.square().sum()).item()
        if factor > 0 and _is_zero(found - factor * true, true):
            is_exact = verdict == step_table.FACTOR and abs(factor - 1) < ROUNDING
            return Measured(step_table.EXACT if is_exact else verdict, factor, None, cosine)
    for found in (few, many):
        weights = torch.linalg.lstsq(torch.stack([score, -kl], 1), found.unsqueeze(1)).solution.flatten()
        if (weights > ROUNDING).all() and _is_zero(found - weights[0] * score + weights[1] * kl, true):
            return Measured(step_table.OTHER_COEFFICIENT, None, (weights[1] / weights[0]).item(), cosine)
    at_optimum = expected_gradient(task, task.language.logits(task.optimum()), step)
    is_kept = _is_zero(at_optimum, true)
    return Measured(step_table.SAME_OPTIMUM if is_kept else step_table.BIASED, None, None, cosine)


def _is_zero(gradient: Tensor, compared: Tensor) -> bool:
    return bool(gradient.norm() < ROUNDING * compared.norm())
