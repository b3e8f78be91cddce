"""Learn from a rollout: the order of one optimizer step, whatever the loss.

    targets(rollout, …)          # once per rollout: the tensors that the losses read
    for each micro-batch:
        learn(micro_batch, …)    # forward and backward, in as many parts as memory needs
    average gradients over processes
    close("train")               # one mean per metric, over the step and all processes

`trl_ext.trainers.rollout.trainer` calls them in this order. transformers clips gradients and runs the optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn

from trl_ext.rl import masked
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.micro_batch_memory import MicroBatchMemory
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.metrics import StepMetrics
from trl_ext.trainers.rollout.micro_batches import MicroBatches, repeated, tokens
from trl_ext.trainers.rollout.sampled import Sampled


class Scored(NamedTuple):
    """Completions under the policy, with gradient: log-probabilities and entropies (B, C), in nats per token.

    `aux_loss` is the load-balancing loss (0-d) of a mixture of experts, or `None`.
    """

    logps: Tensor
    entropies: Tensor
    aux_loss: Tensor | None


def completions_per_prompt(args: Any, mode: str) -> int:
    """The number of completions of each prompt, in training (`train`) or in an evaluation (`eval`)."""
    return args.num_generations if mode == "train" else args.num_generations_eval or args.num_generations


class RolloutUpdate(ABC):
    """Base class: turns a rollout into targets and micro-batches into gradients. It needs no trainer and can be tested alone.

    Args:
        model: The policy, with the other roles on its base.
        args: The trainer's configuration.
        accelerator: The trainer's.
        autocast: Gives the context of a forward pass.
        score: Runs the policy on the completions of a batch.
        aux_loss_coef: Weight of `Scored.aux_loss`.
        metrics: Sums and history of metrics.
        optimizer: Returns the optimizer, which does not exist before training.
    """

    needs_greedy = False  # whether `Sampled.greedy_scores` is read
    row, rows = "completion", "completions"  # names of a row of a micro-batch, for messages

    def __init__(
        self,
        *,
        model: nn.Module,
        args: Any,
        accelerator: Accelerator,
        autocast: Callable[[], AbstractContextManager],
        score: Callable[[dict[str, Tensor]], Scored],
        aux_loss_coef: float,
        metrics: StepMetrics,
        optimizer: Callable[[], Any] = lambda: None,
    ) -> None:
        self.model = model
        self.args = args
        self.accelerator = accelerator
        self.score = score
        self.aux_loss_coef = aux_loss_coef
        self.metrics = metrics
        is_checkpointing = bool(args.gradient_checkpointing)
        self.micro_batches = MicroBatches(
            accelerator, autocast, is_checkpointing=is_checkpointing, row=self.row, rows=self.rows
        )
        if args.gradient_checkpointing == "auto":
            self.micro_batches.memory = MicroBatchMemory(
                model.get_base_model(),
                args,
                accelerator,
                autocast,
                tokens=tokens,
                sample=repeated,
                trained=self.parameters,
                optimizer=optimizer,
            )

    @abstractmethod
    def targets(self, batch: dict[str, Any], sampled: Sampled, mode: str) -> tuple[dict[str, Any], Tensor]:
        """Compute from TRL's rollout `batch` the tensors that the losses read; adds the rollout's metrics under `mode`.

        Returns:
            Tensors with one row per completion or pair and 0-d numbers; and one number per completion (B,) for the table
            of completions.
        """

    @abstractmethod
    def learn(self, batch: dict[str, Tensor], accumulation: int) -> Tensor:
        """Run forward and backward on one of `accumulation` micro-batches; returns its loss, without gradient."""

    @abstractmethod
    def policy_loss(self, batch: dict[str, Tensor], sums: MeanMetrics) -> Tensor:
        """The policy's loss, a mean over the rows of a batch; adds its metrics to `sums`."""

    def policy_forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The policy's forward pass, by which its memory is measured."""
        return self.score(batch).logps

    def checkpoint_nothing(self) -> None:
        """Turn off the checkpointing of the last micro-batch, before completions are sampled and scored."""
        if self.micro_batches.memory is not None:
            self.micro_batches.memory.checkpoint_nothing()

    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return roles.policy_parameters(self.model)

    def close(self, mode: str) -> None:
        """End an optimizer step, or an evaluation batch: record one mean of each metric."""
        self.metrics.record(mode, self.metrics.finish(mode))

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run continues with, as tensors and plain values."""
        return {"part_size": self.micro_batches.part_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.micro_batches.part_size = state.get("part_size")  # older checkpoints have none

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
