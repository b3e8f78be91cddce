"""Measure peak memory: of the GPU allocator where there is a GPU, else of the process in main memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
"""Written to `CLEAR`, it resets the peak; see proc(5)."""


class Peak(NamedTuple):
    """A peak in bytes, and what it was measured on: `GPU`, or `process`, which includes Python and its libraries."""

    bytes: int
    of: str


class PeakMemory:
    """Measures from its creation on."""

    def __init__(self) -> None:
        self.is_known = _forget()

    def read(self) -> Peak | None:
        """The peak so far; `None` if the system does not report it."""
        if not self.is_known:
            return None
        if torch.cuda.is_available():
            return Peak(torch.cuda.max_memory_allocated(), "GPU")
        found = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="ascii", errors="replace"))
        return Peak(int(found[1]) * 1024, "process") if found else None


def _forget() -> bool:
    """Reset the peak. False if that is not possible: outside Linux, and in some containers."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        CLEAR.write_text(FORGET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
