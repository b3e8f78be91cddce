"""Batches where memory is short."""

import pytest

from trl_ext.support import batches
from trl_ext.support.batches import in_batches

ERROR = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


class Device:
    """Computes squares of at most so many items at once, and notes how many were tried."""

    def __init__(self, largest: int, fragmented: int = 0) -> None:
        self.largest, self.fragmented, self.tried = largest, fragmented, []

    def compute(self, items):
        self.tried.append(len(items))
        if self.fragmented > 0 or len(items) > self.largest:
            self.fragmented -= 1
            raise ERROR
        return [item * item for item in items]


@pytest.fixture
def freed(monkeypatch):
    times = []
    monkeypatch.setattr(batches, "release", lambda: times.append(1))
    return times


@pytest.mark.parametrize(
    ("largest", "fragmented", "tried", "failures"),
    [
        (8, 0, [8, 8, 4], 0),
        (8, 1, [8, 8, 8, 4], 1),  # freeing cached memory was enough
        (4, 0, [8, 8, 4, 4, 4, 4, 4], 2),
        (1, 0, [8, 8, 4, 2] + 20 * [1], 4),
    ],
)
def test_a_batch_is_computed_again_as_it_was_and_then_in_halves(largest, fragmented, tried, failures, freed):
    device = Device(largest, fragmented)
    assert list(in_batches(range(20), 8, device.compute)) == [item * item for item in range(20)]
    assert device.tried == tried
    assert len(freed) == failures


def test_an_item_that_alone_does_not_fit_raises(freed):
    device = Device(0)
    results = in_batches([1, 2], 2, device.compute)
    with pytest.raises(RuntimeError, match="CUBLAS"):
        next(results)
    assert device.tried == [2, 2, 1]


def test_other_errors_are_left_alone(freed):
    with pytest.raises(ZeroDivisionError):
        list(in_batches([1], 1, lambda items: 1 / 0))
    assert not freed


def test_a_batch_is_as_large_as_its_largest_item_times_their_number():
    sizes = [3, 1, 1, 4, 2, 9, 1]
    seen = []
    list(in_batches(sizes, 8, lambda batch: seen.append(list(batch)) or batch, size=lambda item: item))
    assert seen == [[3, 1], [1, 4], [2], [9], [1]]
