"""A micro-batch of a rollout, run forward and backward in as many parts as memory needs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from trl_ext.support.errors import UserError
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.out_of_memory import is_out_of_memory, release


class MicroBatches:
    """Mixin before `trl.RLOOTrainer`.

    The backward passes run on the model itself, past DDP's wrapper: each process may need another number of them, so
    whoever uses this averages gradients over processes once per step.

    Attributes read: `args`, `accelerator`, `current_gradient_accumulation_steps`, and `_sums`, the running sums of an
    optimizer step's metrics.
    """

    _sums: dict[str, MeanMetrics]
    _part_size: int | None = None  # rows of a batch at most that memory was enough for; `None` while it always was
    _one, _many = "completion", "completions"  # what a batch has one row of

    def _backward(
        self, phase: str, loss_of: Callable[[dict], Tensor], batch: dict, parameters: list[nn.Parameter]
    ) -> Tensor:
        """Add the gradient of a mean over a batch to `parameters`; where memory runs out, again in halves.

        The gradient is the same however the batch is cut, as long as `loss_of` is a mean over its rows.

        Args:
            phase: What is done, after "Out of memory".
            loss_of: The loss of some rows of the batch, which may add metrics to `_sums["train"]`.
            batch: Tensors of one row per completion, or pair of them, and numbers (0-d) that hold for all of them.
            parameters: Those whose gradients `loss_of` may reach.

        Returns:
            The loss of the whole batch, without gradient.

        Raises:
            UserError: A single row does not fit.
        """
        gradients, sums = [parameter.grad for parameter in parameters], self._sums["train"]
        while True:
            for parameter in parameters:
                parameter.grad = None
            self._sums["train"] = MeanMetrics()
            try:
                loss = self._backward_parts(loss_of, batch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                break
            # Outside the handler, so that no traceback keeps the failed attempt's activations alive.
            release()
            self._halve(phase, batch)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        sums.add_all(self._sums["train"])
        self._sums["train"] = sums
        return loss

    def _backward_parts(self, loss_of: Callable[[dict], Tensor], batch: dict) -> Tensor:
        total = 0.0
        for part in parts(batch, self._part_size or size(batch)):
            with self.compute_loss_context_manager():
                loss = loss_of(part) * (size(part) / size(batch))
            self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
            total = total + loss.detach()
        return total

    def _halve(self, phase: str, batch: dict) -> None:
        tried = min(self._part_size or size(batch), size(batch))
        if tried == 1:
            checkpointing = "" if self.args.gradient_checkpointing else "set `gradient_checkpointing: true`, "
            completions = batch["completion_ids"][0]  # (C,), or (2, C) of a pair
            tokens = completions.numel() + completions[..., 0].numel() * batch["prompt_ids"].size(1)
            raise UserError(
                f"Out of memory {phase} with a single {self._one} of up to {tokens:,} tokens, prompt included: "
                f"{checkpointing}lower `max_completion_length` or `lora_r`, or free memory on the device."
            )
        self._part_size = tried // 2
        many = f"one {self._one}" if self._part_size == 1 else f"{self._part_size} {self._many}"
        say(self.accelerator, f"out of memory {phase}: {many} at a time from here on, again")


def size(batch: dict[str, Any]) -> int:
    """How many completions, or pairs, a batch has."""
    return len(batch["completion_ids"])


def parts(batch: dict[str, Any], at_most: int) -> list[dict[str, Any]]:
    """A batch cut after every `at_most` rows; numbers for all of them go with every part."""
    return [
        {name: value[start : start + at_most] if value.ndim else value for name, value in batch.items()}
        for start in range(0, size(batch), at_most)
    ]
