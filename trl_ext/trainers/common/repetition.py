"""Run a forward and backward pass again if memory runs out."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from accelerate import Accelerator
from torch import nn

from trl_ext.support.free_memory import release
from trl_ext.support.memory_errors import in_parentheses, is_out_of_memory
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.out_of_memory import Unchanged

INTERVAL = 100
"""Micro-batches of a phase among which one is run again as it was."""

Result = TypeVar("Result")


class Recomputes(Protocol):
    """Chooses the checkpointed layers."""

    def recompute_everything(self) -> bool:
        """Checkpoint all layers from now on. Returns whether anything changed."""


class Repetition:
    """Repeats the micro-batches of a phase that run out of memory.

    The first time a micro-batch runs as it was, after cached memory is freed. If memory runs out again, all layers are
    checkpointed, unless the user chose them. After that the caller decides.

    Args:
        accelerator: Prints.
        phase: Text after "Out of memory", such as "in the update".
        what: What is run again, for messages.
    """

    def __init__(self, accelerator: Accelerator, phase: str, what: str = "the micro-batch") -> None:
        self.accelerator = accelerator
        self.phase = phase
        self.what = what
        self._unchanged = Unchanged(INTERVAL)

    def until_it_fits(
        self,
        attempt: Callable[[], Result],
        parameters: list[nn.Parameter],
        memory: Recomputes | None,
        shrink: Callable[[str], None],
    ) -> Result:
        """Call `attempt` until it does not run out of memory, and add its gradients to those that exist.

        Args:
            attempt: Runs the micro-batch forward and backward.
            parameters: Parameters that it may give gradients.
            memory: Chooses the checkpointed layers; `None` if the user chose them.
            shrink: Makes the next attempt smaller, or raises an error. It is given the error of a library, in parentheses.

        Returns:
            What `attempt` returns.
        """
        gradients = [parameter.grad for parameter in parameters]
        self._unchanged.begin()
        while True:
            for parameter in parameters:
                parameter.grad = None
            try:
                result = attempt()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                quoted = in_parentheses(error)
            else:
                break
            # Outside the handler, so that no traceback keeps the failed attempt's activations alive.
            release()
            if self._unchanged.is_allowed():
                self._say(f"cached memory was freed, and {self.what} is run again as it was")
            elif memory is not None and memory.recompute_everything():
                self._say(f"{self.what} is run again, from now on with gradient checkpointing in all layers")
            else:
                shrink(quoted)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return result

    def _say(self, text: str) -> None:
        say(self.accelerator, f"out of memory {self.phase}: {text}")
