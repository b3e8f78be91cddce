"""Learn from a rollout: the order of one optimizer step, whatever the loss.

    needs_logps(mode)            # whether a rollout is scored under the policy before it is learnt from
    targets(rollout, …)          # once per rollout: the tensors that the losses read
    for each micro-batch:
        collect it
    learn(batch, …)              # all of them as one batch: forward and backward, in as many rows as memory needs
    average gradients over processes
    close("train")               # one mean per metric, over the step and all processes

`trl_ext.trainers.rollout.trainer` calls them in this order. transformers clips gradients and runs the optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from trl_ext.rl import masked
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.rollout import distances, roles, token_ids
from trl_ext.trainers.rollout.backward import Backward, join
from trl_ext.trainers.rollout.metrics import StepMetrics
from trl_ext.trainers.rollout.rows import RolloutRows, Scored
from trl_ext.trainers.rollout.sampled import Sampled


def completions_per_prompt(args: Any, mode: str) -> int:
    """The number of completions of each prompt, in training (`train`) or in an evaluation (`eval`)."""
    return args.num_generations if mode == "train" else args.num_generations_eval or args.num_generations


class RolloutUpdate(ABC):
    """Base class: turns a rollout into targets and micro-batches into gradients. It needs no trainer and can be tested alone.

    Args:
        rows: Runs the policy and the other roles on its base.
        score: Runs the policy on the completions of a batch, in one row if gradients are enabled.
        aux_loss_coef: Weight of `Scored.aux_loss`.
        metrics: Sums and history of metrics.
    """

    needs_greedy = False  # whether `Sampled.greedy_scores` is read
    example = "completion"  # what a batch has rows of, for messages
    unlogged: tuple[str, ...] = (distances.TO_REFERENCE,)  # metrics that are only checked

    def __init__(
        self,
        *,
        rows: RolloutRows,
        score: Callable[[dict[str, Tensor]], Scored],
        aux_loss_coef: float,
        metrics: StepMetrics,
    ) -> None:
        self.rows = rows
        self.model = rows.runtime.model
        self.args = rows.runtime.args
        self.accelerator = rows.runtime.accelerator
        self.score = score
        self.aux_loss_coef = aux_loss_coef
        self.metrics = metrics
        self.backward = Backward(rows, self.example)

    @property
    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether completions are scored under the reference. Otherwise `Sampled.ref_logps` is `None`, and no KL is logged."""

    def needs_logps(self, mode: str) -> bool:
        """Whether a rollout needs the policy's log-probabilities before it is learnt from (`train`) or evaluated (`eval`).

        Otherwise `Sampled.logps` is `None`, and the forward pass of the update is the first to compute them.
        """
        return True

    @abstractmethod
    def targets(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> tuple[dict[str, Any], Tensor]:
        """Compute from TRL's rollout `batch` the tensors that the losses read; adds the rollout's metrics under `mode`.

        Returns:
            Tensors with one row per completion or pair and 0-d numbers; and one number per completion (B,) for the table
            of completions.
        """

    def learn_step(self, micro_batches: list[tuple[int, dict[str, Tensor]]]) -> Tensor:
        """Run forward and backward on the micro-batches of an optimizer step; returns their mean loss, without gradient.

        Args:
            micro_batches: Each with a number. Neighbours of one number are learnt from as one batch, so they must be of one
                rollout.
        """
        total = 0.0
        for _, group in groupby(micro_batches, key=lambda numbered: numbered[0]):
            batches = [batch for _, batch in group]
            share, batch = len(batches) / len(micro_batches), join(batches)
            # A run that is resumed within a rollout has run no rows yet, and would cut these as if they were not packed.
            self.rows.prepare(token_ids.trees(batch))
            total = total + share * self.learn(batch, 1 / share)
        return total

    @abstractmethod
    def learn(self, batch: dict[str, Tensor], accumulation: float) -> Tensor:
        """Run forward and backward on a batch; returns its loss, without gradient.

        Args:
            batch: Completions or pairs of one rollout.
            accumulation: The gradient is divided by it, because the batch is only a part of an optimizer step.
        """

    @abstractmethod
    def policy_loss(self, batch: dict[str, Tensor], sums: MeanMetrics) -> Tensor:
        """The policy's loss, a mean over the rows of a batch; adds its metrics to `sums`."""

    def checkpoint_nothing(self) -> None:
        """Turn off the checkpointing of the last row, before completions are sampled and scored."""
        self.rows.memory.checkpoint_nothing()

    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return roles.policy_parameters(self.model)

    def close(self, mode: str) -> dict[str, float]:
        """End an optimizer step, or an evaluation batch: record one value of each metric, and return all of them."""
        found = self.metrics.finish(mode)
        self.metrics.record(mode, {name: value for name, value in found.items() if name not in self.unlogged})
        return found

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run continues with, as tensors and plain values."""
        return {"row_budget": self.rows.memory.row_budget, "reference_budget": self.rows.memory.reference_budget}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Older checkpoints have none.
        self.rows.memory.resume(state.get("row_budget"), state.get("reference_budget"))

    def add_up(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        return self.accelerator.reduce(values, reduction="sum")

    def _record_entropy(self, scored: Scored, mask: Tensor, sums: MeanMetrics) -> None:
        sums.add("entropy", masked.total(scored.entropies.detach(), mask).sum(), mask.sum())

    def _with_aux_loss(self, loss: Tensor, scored: Scored, sums: MeanMetrics) -> Tensor:
        if scored.aux_loss is None:
            return loss
        sums.add("aux_loss", scored.aux_loss, 1)
        return loss + self.aux_loss_coef * scored.aux_loss
