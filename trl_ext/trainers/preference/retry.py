"""Run a step again when memory runs out, first as it was, then with smaller rows, and discard the failed attempts."""

from collections.abc import Iterator
from typing import Any

import torch

from trl_ext.support.free_memory import release
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError, Unchanged
from trl_ext.trainers.common.processes import on_any_process
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference import random_state
from trl_ext.trainers.preference.rows import Rows

INTERVAL = 20
"""Steps among which one is repeated with the same rows."""


class Attempt:
    """Context of one run of a step. It yields the sums to which the step's metrics are added.

    Attributes:
        fits: Whether the step fitted in memory on all processes.
        ran_out_here: Whether this process ran out of memory.
        quoted: The error of a library that ran out of memory here, in parentheses.
    """

    fits = False
    ran_out_here = False
    quoted = ""

    def __enter__(self) -> MeanMetrics:
        return MeanMetrics()

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        self.fits = error is None
        if not isinstance(error, RowsDoNotFitError):
            return False
        self.ran_out_here, self.quoted = error.is_here, error.quoted
        return True


class Retry:
    """Repeat a step until it fits.

    It is repeated with the same rows first (`Unchanged`), then with less memory.

    Args:
        runtime: The policy, whose gradients are cleared after a failed attempt.
        rows: Cuts the step.
        memory: Shortens rows or recomputes layers.

    Attributes:
        has_run_again: Whether any step was repeated.
    """

    def __init__(self, runtime: Runtime, rows: Rows, memory: RowMemory) -> None:
        self.runtime = runtime
        self.rows = rows
        self.memory = memory
        self.has_run_again = False
        self._unchanged = Unchanged(INTERVAL)

    def attempts(self, examples: list[dict]) -> Iterator[Attempt]:
        """Yield contexts in which to run the step: one, and another after each in which memory ran out.

        Args:
            examples: The examples of this process.

        Raises:
            torch.OutOfMemoryError: A row of a single example does not fit.
        """
        before = random_state.capture()
        self._unchanged.begin()
        attempt = Attempt()
        yield attempt
        while not attempt.fits:
            self.has_run_again = True
            self.runtime.model.zero_grad(set_to_none=True)
            release()
            # All processes count alike, because all learn of a failure on any.
            if self._unchanged.is_allowed():
                self.runtime.say("out of memory: cached memory was freed, and the step is repeated with the same rows")
            else:
                self._make_room(examples, attempt.ran_out_here, attempt.quoted)
            random_state.restore(before)
            attempt = Attempt()
            yield attempt

    def _make_room(self, examples: list[dict], is_here: bool, quoted: str) -> None:
        """On the processes that ran out, halve the rows, or recompute all layers if a single example does not fit.

        Where memory ran out in a row of the reference that is longer than the policy's, only such rows are halved.
        """
        is_reference = is_here and self.memory.shorten_reference_rows()
        rows = self.rows.cut(examples)
        largest = max(rows, key=self.rows.size)
        recomputes = is_here and not is_reference and len(largest) == 1 and self.memory.recompute_everything()
        is_hopeless = is_here and not (is_reference or recomputes) and len(rows) == len(examples)
        if on_any_process(self.runtime.accelerator, is_hopeless):
            raise torch.OutOfMemoryError(
                f"Out of memory with a single example of up to {self.rows.size(largest):,} tokens in a row{quoted}. Lower "
                "`max_length` or `lora_r`, or free memory on the device."
            )
        if is_here and not (is_reference or recomputes):
            # An example longer than a row has one of its own. Other rows may be those that do not fit.
            self.memory.shorten_rows(min(self.rows.size(largest), self.memory.row_tokens) // 2)
        change = "gradient checkpointing in all layers" if recomputes else f"row_tokens {self.memory.row_tokens:,}"
        if is_reference:
            change = f"reference rows of up to {self.memory.reference_budget:,} tokens"
        if self.runtime.accelerator.num_processes > 1:  # it may have happened on another process
            change = "rows half as long, or gradient checkpointing in all layers, on the processes concerned"
        self.runtime.say(f"out of memory: the step is repeated, from now on with {change}")
