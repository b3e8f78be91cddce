"""Print the results of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl_ext.evaluation.tasks.record import Entry, shown, summary
from trl_ext.support import terminal


def show(console: Any, entries: Mapping[str, Entry]) -> None:
    """Print a table with a line per task, and the summary."""
    table = terminal.table("task", "documents", "base", "tuned", "difference")
    for name, entry in entries.items():
        arrow = {True: " ↑", False: " ↓", None: ""}[entry["higher_is_better"]]
        results = [shown(entry, key) for key in ("base", "tuned", "difference")]
        table.add_row(f"{name}, {entry['metric']}{arrow}", f"{entry['n']:,}", *results)
    console.print(table)
    console.print(summary(entries), markup=False)
    console.print(
        "Differences are tuned minus base, document by document. ± is half the width of the 95 % interval; (from–to) if it is not "
        "symmetric.",
        style="dim",
    )
