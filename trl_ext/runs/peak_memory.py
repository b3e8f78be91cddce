"""The most memory something takes: of a GPU what its allocator gave out, elsewhere what the process had in main memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
"""What `CLEAR` takes for it; see proc(5)."""


class Peak(NamedTuple):
    """A peak in bytes, and of what: `GPU` or `process`, which holds Python and its libraries too."""

    bytes: int
    of: str


class PeakMemory:
    """Counts from its making on."""

    def __init__(self) -> None:
        self.is_known = _forget()

    def read(self) -> Peak | None:
        """The peak so far; `None` where the system does not tell it."""
        if not self.is_known:
            return None
        if torch.cuda.is_available():
            return Peak(torch.cuda.max_memory_allocated(), "GPU")
        found = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="ascii", errors="replace"))
        return Peak(int(found[1]) * 1024, "process") if found else None


def _forget() -> bool:
    """Begin a new peak. False where that is not to be had: outside Linux, and in some containers."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        CLEAR.write_text(FORGET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
