"""The peak of a process, against allocations of known size."""

import numpy as np
import pytest

from trl_ext.runs import peak_memory
from trl_ext.runs.peak_memory import PeakMemory

SIZE, SLACK = 256 * 2**20, 32 * 2**20

needs_linux = pytest.mark.skipif(
    PeakMemory().read() is None, reason="the system does not let a process forget its peak"
)


@needs_linux
def test_a_peak_begins_anew_and_sees_what_is_free_again():
    before = PeakMemory()
    np.ones(SIZE, dtype=np.uint8)
    first = before.read()
    after = PeakMemory()
    base = after.read()
    assert first.of == base.of == "process"
    assert first.bytes - base.bytes > SIZE - SLACK
    np.ones(SIZE // 2, dtype=np.uint8)
    assert after.read().bytes - base.bytes == pytest.approx(SIZE // 2, abs=SLACK)


def test_where_peaks_are_not_forgotten_none_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    assert PeakMemory().read() is None
