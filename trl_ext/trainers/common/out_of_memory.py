"""Name the phase in which memory runs out, and free memory after it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import clear_device_cache

from trl_ext.support.errors import UserError
from trl_ext.support.memory_errors import in_parentheses, is_out_of_memory


class RowsDoNotFitError(Exception):
    """Memory ran out on some process in the middle of a step.

    Attributes:
        is_here: Whether it ran out on this process.
        quoted: The error of a library, in parentheses (`in_parentheses`).
    """

    def __init__(self, is_here: bool = True, quoted: str = "") -> None:
        super().__init__(f"memory ran out{quoted}")
        self.is_here = is_here
        self.quoted = quoted


class Unchanged:
    """Decides whether what ran out of memory is repeated unchanged, once cached memory is freed.

    The allocator may have had enough memory, but in pieces that were too small. If this happens often, smaller pieces of
    work take less time than repeating everything.

    Args:
        interval: Number of calls of `begin` in which one repetition is allowed.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._begun = 0
        self._last: int | None = None

    def begin(self) -> None:
        """Count a piece of work."""
        self._begun += 1

    def is_allowed(self) -> bool:
        """Whether the current piece of work is repeated unchanged. An allowed repetition is counted."""
        if self._last is not None and self._begun - self._last < self.interval:
            return False
        self._last = self._begun
        return True


def release() -> None:
    """Free the memory of a failed attempt. Call it outside the handler, whose traceback keeps the graph alive."""
    gc.collect()
    clear_device_cache()
    if torch.cuda.is_initialized():
        clear_pending_errors(torch.device("cuda", torch.cuda.current_device()))


def clear_pending_errors(device: torch.device) -> None:
    """Clear the CUDA runtime's last error, which an allocation that failed in a library leaves behind.

    bitsandbytes reads it after each of its kernels and ends the process if there is one, whoever caused it. PyTorch reads and
    clears it after each kernel. The CUDA runtime keeps one per host thread, and the kernels of a backward pass are launched
    from a thread of their own. So a forward and a backward pass are run, each of which may raise once.

    Raises:
        RuntimeError: The error persists, so the device can no longer be used.
    """
    for is_last in (False, False, True):
        try:
            with torch.enable_grad():
                number = torch.ones((), device=device, requires_grad=True)
                torch.autograd.grad(number * number, number)
            return
        except RuntimeError as error:
            if is_last and not is_out_of_memory(error):
                raise


@contextmanager
def reported(phase: str, remedy: str) -> Iterator[None]:
    """Inside, an out-of-memory error becomes one that names the phase and what to do.

    Args:
        phase: What is done inside, after "Out of memory".
        remedy: What to lower or switch on, after a colon.

    Raises:
        UserError: Memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"Out of memory {phase}{in_parentheses(error)}: {remedy}.") from error
