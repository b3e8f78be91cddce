"""Run passes without gradient over many completions, in rows that fit in memory."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from trl_ext.batching.packed import Tree
from trl_ext.support.free_memory import release
from trl_ext.support.memory_errors import in_parentheses, is_out_of_memory
from trl_ext.trainers.common.out_of_memory import Unchanged

if TYPE_CHECKING:
    from trl_ext.trainers.rollout.rows import RolloutRows

INTERVAL = 100
"""Passes among which one is continued with the same rows after memory ran out."""

RunRow = Callable[[list[Tree]], tuple[list[Tensor], Any]]
"""Tables (S, C) of a row, and an auxiliary loss or `None`."""


class Part(NamedTuple):
    """Results of a row: the indices of its completions, tables (S, C), and an auxiliary loss or `None`."""

    indices: list[int]
    tables: list[Tensor]
    aux_loss: Tensor | None


class Passes:
    """Run rows of completions without gradient.

    If memory runs out, the rest continues with the same rows once cached memory is freed, then with shorter rows.

    Args:
        rows: Cuts the rows.
    """

    def __init__(self, rows: "RolloutRows") -> None:
        self.rows = rows
        self._unchanged = Unchanged(INTERVAL)

    def run(self, trees: list[Tree], run_row: RunRow) -> tuple[list[Tensor], Tensor | None]:
        """Tables (B, C) of all completions, and the mean of the rows' auxiliary losses.

        Raises:
            torch.OutOfMemoryError: A single completion does not fit.
        """
        parts: list[Part] = []
        missing = list(range(len(trees)))
        self._unchanged.begin()
        while missing:
            failed = self._continue(trees, missing, run_row, parts)
            if failed is None:
                break
            # Outside the handler, so that no traceback keeps the failed row's memory.
            release()
            done = {i for part in parts for i in part.indices}
            missing = [i for i in missing if i not in done]
            if self._unchanged.is_allowed():
                self.rows.runtime.say(
                    "out of memory: cached memory was freed, and the pass continues with the same rows"
                )
            else:
                self._shorten(*failed)
        order = torch.tensor([i for part in parts for i in part.indices]).argsort().to(self.rows.runtime.device)
        joined = [torch.cat(tables)[order] for tables in zip(*(part.tables for part in parts), strict=True)]
        losses = [part.aux_loss for part in parts if part.aux_loss is not None]
        return joined, torch.stack(losses).mean() if losses else None

    def _continue(
        self, trees: list[Tree], missing: list[int], run_row: RunRow, parts: list[Part]
    ) -> tuple[list[Tree], str] | None:
        """Run the missing completions. Returns the row in which memory ran out, with the error's text; `None` without one."""
        waiting = [trees[i] for i in missing]
        limit = self.rows.memory.reference_tokens(max(self.rows.size([tree]) for tree in waiting))
        row: list[Tree] = []
        try:
            for indices in self.rows.cut(waiting, limit):
                row = [waiting[i] for i in indices]
                parts.append(Part([missing[i] for i in indices], *run_row(row)))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return row, in_parentheses(error)
        return None

    def _shorten(self, row: list[Tree], quoted: str) -> None:
        size = self.rows.size(row)
        if len(row) == 1:
            raise torch.OutOfMemoryError(
                f"A single completion of {size:,} tokens, prompt included, does not fit{quoted}."
            )
        self.rows.memory.limit_reference_rows(size // 2)
        self.rows.runtime.say(
            f"out of memory: the pass continues, from now on with rows of up to {size // 2:,} tokens"
        )
