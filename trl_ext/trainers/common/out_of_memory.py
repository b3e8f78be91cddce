"""Name the phase in which memory runs out, and decide what is repeated."""

from collections.abc import Iterator
from contextlib import contextmanager

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
