"""Run a micro-batch of a rollout forward and backward, in as many parts as memory needs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from trl_ext.support.errors import UserError
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.micro_batch_memory import Forward, MicroBatchMemory
from trl_ext.trainers.common.repetition import Repetition


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
        self._repetitions: dict[str, Repetition] = {}  # by phase

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

        `Repetition` says how it runs again; at last in halves.

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

        def attempt() -> tuple[Tensor, MeanMetrics]:
            metrics = MeanMetrics()
            return self._backward_parts(phase, loss_of, batch, metrics, accumulation, forward), metrics

        repetition = self._repetitions.setdefault(phase, Repetition(self.accelerator, phase))
        loss, metrics = repetition.until_it_fits(
            attempt, parameters, self.memory, lambda quoted: self._halve(phase, batch, quoted)
        )
        sums.add_all(metrics)
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


def tokens(batch: dict[str, Any]) -> int:
    """Tokens that a batch computes, padding included: its completions (B, C), or those of pairs (P, 2, C), with their prompts."""
    completions = batch["completion_ids"]
    return completions.numel() + completions[..., 0].numel() * batch["prompt_ids"].size(1)


def repeated(batch: dict[str, Any], times: int) -> dict[str, Any]:
    """The first row of a batch, `times` times, by which its memory is measured."""
    return {name: value[:1].repeat_interleave(times, 0) for name, value in batch.items() if value.ndim}
