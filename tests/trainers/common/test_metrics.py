"""Means over rows, wherever their parts lie."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from trl_ext.trainers.common.metrics import MeanMetrics


def test_means_are_of_all_that_was_added():
    sums = MeanMetrics()
    sums.add("tokens", 12, 1)
    sums.add("tokens", 5, 1)
    sums.add("loss", torch.tensor(3.0), torch.tensor(4))
    sums.add("never", torch.tensor(0.0), 0)
    assert sums.means() == {"tokens": 8.5, "loss": 0.75}


@pytest.mark.parametrize("processes", [1, 2])
def test_plain_numbers_and_tensors_on_a_gpu_are_reduced_together(processes):
    """Rows count their tokens on the CPU; a fake GPU refuses to stack tensors of two devices as a real one does."""
    reduced = []

    def reduce(stacked, reduction):
        reduced.append(stacked.device.type)
        return stacked

    with FakeTensorMode():
        gpu = torch.device("cuda", 0)
        sums = MeanMetrics()
        sums.add("num_tokens", 12, 1)
        sums.add("loss", torch.ones((), device=gpu), 4)
        sums.reduce(SimpleNamespace(num_processes=processes, device=gpu, reduce=reduce))
        assert sums._stacked().device.type == "cuda"
    assert reduced == ["cuda"] * (processes - 1)
