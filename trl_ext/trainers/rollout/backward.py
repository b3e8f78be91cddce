"""Run an optimizer step of a rollout forward and backward, cut into rows that fit in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.batching.packed import Tree
from trl_ext.support.errors import UserError
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.repetition import Repetition
from trl_ext.trainers.rollout import token_ids
from trl_ext.trainers.rollout.rows import RolloutRows


class Backward:
    """Accumulates gradients of means over batches.

    Processes may need different numbers of backward passes, so these must not run through DDP's wrapper. The caller
    averages gradients over processes once per optimizer step.

    Args:
        rows: Cuts a batch.
        example: What a batch has rows of, for messages.
    """

    def __init__(self, rows: RolloutRows, example: str = "completion") -> None:
        self.rows = rows
        self.example = example
        self._repetitions: dict[str, Repetition] = {}  # by phase

    def run(
        self,
        phase: str,
        loss_of: Callable[[dict, MeanMetrics], Tensor],
        batch: dict[str, Tensor],
        parameters: list[nn.Parameter],
        sums: MeanMetrics,
        accumulation: float = 1.0,
    ) -> Tensor:
        """Add the gradient of a mean over a batch to `parameters`; if memory runs out, run it again.

        `Repetition` says how it runs again; at last in shorter rows.

        The gradient is the same however the batch is cut, as long as `loss_of` is a mean over its examples.

        Args:
            phase: Text after "Out of memory", such as "in the update".
            loss_of: The loss of some examples of the batch; it adds their metrics to the sums it is given.
            batch: Tensors with one row per completion, or pair of them, and numbers (0-d) that hold for all of them.
            parameters: Parameters that `loss_of` may give gradients.
            sums: Receives the metrics once, however often the batch is run again.
            accumulation: The gradient is divided by it: the batch is this part of an optimizer step.

        Returns:
            The loss of the whole batch, without gradient.

        Raises:
            UserError: A single completion or pair does not fit.
        """
        trees, running = token_ids.trees(batch), []

        def attempt() -> tuple[Tensor, MeanMetrics]:
            metrics, total = MeanMetrics(), torch.zeros((), device=self.rows.runtime.device)
            for row in self.rows.cut(trees):
                running[:] = [trees[i] for i in row]
                self.rows.memory.checkpoint_for(self.rows.size(running))
                with self.rows.runtime.autocast():
                    loss = loss_of(take(batch, row), metrics) * (len(row) / len(trees))
                self.rows.runtime.backward(loss / accumulation)
                total = total + loss.detach()
            return total, metrics

        what = Repetition(self.rows.runtime.accelerator, phase, what="the step")
        repetition = self._repetitions.setdefault(phase, what)
        shorten = lambda quoted: self._shorten(phase, running, quoted)  # noqa: E731
        loss, metrics = repetition.until_it_fits(attempt, parameters, self.rows.memory, shorten)
        sums.add_all(metrics)
        return loss

    def _shorten(self, phase: str, row: list[Tree], quoted: str) -> None:
        """Shorten rows so that the one in which memory ran out is cut."""
        runtime, size = self.rows.runtime, self.rows.size(row)
        if len(row) == 1:
            checkpointing = "" if runtime.args.gradient_checkpointing else "set `gradient_checkpointing: true`, "
            raise UserError(
                f"Out of memory {phase} with a single {self.example} of {size:,} tokens, prompt included{quoted}. To "
                f"reduce memory, {checkpointing}lower `max_completion_length` or `lora_r`, or free memory on the device."
            )
        self.rows.memory.shorten_rows(size // 2)
        say(
            runtime.accelerator,
            f"out of memory {phase}: the step is run again, with rows of up to {size // 2:,} tokens from now on",
        )


def take(batch: dict[str, Any], indices: list[int]) -> dict[str, Any]:
    """Some examples of a batch; numbers that hold for all of them stay as they are."""
    rows = torch.tensor(indices, device=batch["completion_ids"].device)  # moved once, for all tensors
    return {name: value.index_select(0, rows) if getattr(value, "ndim", 0) else value for name, value in batch.items()}


def join(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Micro-batches of one rollout as one batch."""
    if len(batches) == 1:
        return batches[0]
    return {
        name: torch.cat([batch[name] for batch in batches]) if getattr(value, "ndim", 0) else value
        for name, value in batches[0].items()
    }
