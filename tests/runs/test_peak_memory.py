"""The peak of a process, against allocations of known size."""

import numpy as np
import psutil
import pytest

from trl_ext.runs import peak_memory
from trl_ext.runs.peak_memory import PeakMemory

SIZE, SLACK = 256 * 2**20, 32 * 2**20

needs_linux = pytest.mark.skipif(
    PeakMemory().read() is None, reason="the system does not let a process forget its peak"
)


def resident() -> int:
    return psutil.Process().memory_info().rss


@needs_linux
def test_a_peak_begins_anew_and_sees_what_is_free_again():
    """Compared with what the process holds at the same moment: the system may take back pages of files at any time."""
    first = PeakMemory()
    held = np.ones(SIZE, dtype=np.uint8)
    full = resident()
    del held
    free = resident()
    assert free < full - SIZE + SLACK
    assert first.read() == (pytest.approx(full, abs=SLACK), "process")

    second = PeakMemory()
    assert second.read().bytes < free + SLACK
    held = np.ones(SIZE // 2, dtype=np.uint8)
    full = resident()
    del held
    assert full - SLACK < second.read().bytes < free + SIZE // 2 + SLACK


def test_where_peaks_are_not_forgotten_none_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    assert PeakMemory().read() is None
