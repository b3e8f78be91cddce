"""Run a micro-batch of a rollout forward and backward, in as many parts as memory needs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from trl_ext.support.errors import UserError
from trl_ext.support.memory_errors import in_parentheses, is_out_of_memory
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.out_of_memory import Unchanged, release
from trl_ext.trainers.rollout.memory import Forward, MicroBatchMemory, tokens

INTERVAL = 100
"""Micro-batches of a phase among which one is run again as it was."""


class MicroBatches:
    """Accumulates gradients of means over micro-batches.

    Processes may need different numbers of backward passes, so these must not run through DDP's wrapper. The caller
    averages gradients over processes once per optimizer step.

    Args:
        accelerator: Runs the backward passes.
        autocast: Gives the context of a forward pass.
        is_checkpointing: Whether gradient checkpointing is on. If not, the out-of-memory error suggests it.
        row, rows: Name of a row of a batch, singular and plural, for messages.

    Attributes:
        part_size: Rows that run together; `None` for a whole micro-batch, until memory runs out.
        memory: Chooses the checkpointed layers; `None` if the user chose them.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        autocast: Callable[[], AbstractContextManager],
        *,
        is_checkpointing: bool,
        row: str = "completion",
        rows: str = "completions",
    ) -> None:
        self.accelerator = accelerator
        self.autocast = autocast
        self.is_checkpointing = is_checkpointing
        self.row, self.rows = row, rows
        self.part_size: int | None = None
        self.memory: MicroBatchMemory | None = None
        self._unchanged: dict[str, Unchanged] = {}  # by phase

    def backward(
        self,
        phase: str,
        loss_of: Callable[[dict, MeanMetrics], Tensor],
        batch: dict[str, Tensor],
        parameters: list[nn.Parameter],
        sums: MeanMetrics,
        accumulation: int,
        forward: Forward | None = None,
    ) -> Tensor:
        """Add the gradient of a mean over a batch to `parameters`; if memory runs out, run it again.

        The first time it runs as it was, after cached memory is freed. If memory runs out again, all layers are checkpointed,
        unless the user chose them. After that it runs in halves.

        The gradient is the same however the batch is cut, as long as `loss_of` is a mean over its rows.

        Args:
            phase: Text after "Out of memory", such as "in the update".
            loss_of: The loss of some rows of the batch; it adds their metrics to the sums it is given.
            batch: Tensors with one row per completion, or pair of them, and numbers (0-d) that hold for all rows.
            parameters: Parameters that `loss_of` may give gradients.
            sums: Receives the metrics once, however often the batch is run again.
            accumulation: Number of micro-batches of an optimizer step; the gradient is divided by it.
            forward: The forward pass of the loss, by which memory is measured.

        Returns:
            The loss of the whole batch, without gradient.

        Raises:
            UserError: A single row does not fit.
        """
        gradients = [parameter.grad for parameter in parameters]
        unchanged = self._unchanged.setdefault(phase, Unchanged(INTERVAL))
        unchanged.begin()
        while True:
            for parameter in parameters:
                parameter.grad = None
            attempt = MeanMetrics()
            try:
                loss = self._backward_parts(phase, loss_of, batch, attempt, accumulation, forward)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                quoted = in_parentheses(error)
            else:
                break
            # Outside the handler, so that no traceback keeps the failed attempt's activations alive.
            release()
            if unchanged.is_allowed():
                text = "cached memory was freed, and the micro-batch is run again as it was"
                say(self.accelerator, f"out of memory {phase}: {text}")
            elif self.memory is not None and self.memory.recompute_everything():
                text = "the micro-batch is run again, from now on with gradient checkpointing in all layers"
                say(self.accelerator, f"out of memory {phase}: {text}")
            else:
                self._halve(phase, batch, quoted)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        sums.add_all(attempt)
        return loss

    def _backward_parts(
        self,
        phase: str,
        loss_of: Callable,
        batch: dict,
        sums: MeanMetrics,
        accumulation: int,
        forward: Forward | None,
    ) -> Tensor:
        total = 0.0
        for part in parts(batch, self.part_size or size(batch)):
            if self.memory is not None:
                self.memory.checkpoint_for(phase, part, forward)
            with self.autocast():
                loss = loss_of(part, sums) * (size(part) / size(batch))
            self.accelerator.backward(loss / accumulation)
            total = total + loss.detach()
        return total

    def _halve(self, phase: str, batch: dict, quoted: str) -> None:
        tried = min(self.part_size or size(batch), size(batch))
        if tried == 1:
            checkpointing = "" if self.is_checkpointing else "set `gradient_checkpointing: true`, "
            longest = tokens({name: batch[name][:1] for name in ("completion_ids", "prompt_ids")})
            raise UserError(
                f"Out of memory {phase} with a single {self.row} of up to {longest:,} tokens, prompt included{quoted}. To reduce "
                f"memory, {checkpointing}lower `max_completion_length` or `lora_r`, or free memory on the device."
            )
        self.part_size = tried // 2
        together = f"one {self.row}" if self.part_size == 1 else f"{self.part_size} {self.rows}"
        say(
            self.accelerator,
            f"out of memory {phase}: the micro-batch is run again, with {together} at a time from now on",
        )


def size(batch: dict[str, Any]) -> int:
    """Number of completions, or pairs, in a batch."""
    return len(batch["completion_ids"])


def parts(batch: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """Cut a batch after every `rows` rows; numbers that hold for all rows are in every part."""
    return [
        {name: value[start : start + rows] if value.ndim else value for name, value in batch.items()}
        for start in range(0, size(batch), rows)
    ]
