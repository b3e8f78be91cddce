"""A step whose memory runs out is run again in smaller rows, and nothing of the failed attempt is left."""

from collections.abc import Callable

import torch

from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.metrics import MeanMetrics
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError, release
from trl_ext.trainers.common.processes import on_any_process
from trl_ext.trainers.preference import random_state
from trl_ext.trainers.preference.rows import Rows


class Retry(Rows):
    """Mixin: runs the rows of a step until they fit.

    Attributes read: `args`, `model`, `accelerator`.
    """

    def _until_it_fits(self, run: Callable[[list[dict], MeanMetrics], None], examples: list[dict]) -> MeanMetrics:
        """Run a step; where memory runs out on any process, halve its rows and run the same step again.

        Args:
            run: Runs the examples row by row and adds their metrics to the sums it is given.
            examples: The examples of this process.

        Raises:
            torch.OutOfMemoryError: A row of a single example does not fit.
        """
        before = random_state.capture()
        while True:
            sums = MeanMetrics()
            try:
                run(examples, sums)
                return sums
            except RowsDoNotFitError:
                pass
            # Outside the handler, so that no traceback keeps the failed attempt's activations alive.
            self._has_run_again = True
            self.model.zero_grad(set_to_none=True)
            release()
            self._make_room(examples)
            random_state.restore(before)

    def _make_room(self, examples: list[dict]) -> None:
        """Recompute more where a single example is the trouble, else halve the rows, on the processes that ran out."""
        rows = self._rows(examples)
        largest = max(rows, key=self._row_size)
        recomputes = self._ran_out and len(largest) == 1 and self._recompute_everything()
        is_hopeless = self._ran_out and not recomputes and len(rows) == len(examples)
        if on_any_process(self.accelerator, is_hopeless):
            raise torch.OutOfMemoryError(
                f"Out of memory with a single example of up to {self._row_size(largest):,} tokens in a row. Lower "
                "`max_length` or `lora_r`, or free memory on the device."
            )
        if self._ran_out and not recomputes:
            self._row_budget = self._row_size(largest) // 2
        what = "all layers are recomputed" if recomputes else f"rows of at most {self.row_tokens} tokens"
        if self.accelerator.num_processes > 1:
            what = "rows are halved, or all layers recomputed, where that happened"  # this may be another process
        say(self.accelerator, f"out of memory: {what} from here on, again")
