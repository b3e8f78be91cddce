"""Report what was found in data that is not preference data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trl_ext.data.report import Dropped
from trl_ext.support.counts import count


@dataclass(frozen=True)
class PlainReport:
    """What was found; `dropped`, `notes`, `examples`, `kept` and `ignored` as in `trl_ext.data.report.Report`."""

    where: str
    what: str
    rows: int | None
    remark: str = ""
    kept: np.ndarray | None = field(default=None, compare=False, repr=False)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        number = "streamed" if self.rows is None else count(self.rows, "rows")
        lines = [f"{self.where}: {self.what}, {number}.", *([self.remark] if self.remark else [])]
        for reason, dropped in self.dropped.items():
            lines.append(f"{count(dropped.rows, 'rows')} dropped: {reason} (first: row {dropped.first:,}).")
        lines += [f"{count(n, 'rows')}: {note}." for note, n in self.notes.items()]
        return [*lines, f"Columns not used: {', '.join(self.ignored)}."] if self.ignored else lines
