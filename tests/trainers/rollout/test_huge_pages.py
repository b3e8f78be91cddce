"""Tensors in one piece of memory: as those of `torch.empty`, one beside the other."""

import mmap
from pathlib import Path

import pytest
import torch

from trl_ext.trainers.rollout import huge_pages
from trl_ext.trainers.rollout.huge_pages import HugePages, padded

OF_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SHAPES = [
    ((3, 5), torch.float32),
    ((7,), torch.bfloat16),
    ((), torch.float32),
    ((0, 4), torch.float32),
    ((2, 3, 4), torch.float16),
]
SIZE = sum(padded(torch.empty(shape, dtype=dtype).nbytes) for shape, dtype in SHAPES)


def test_tensors_have_memory_of_their_own():
    memory = HugePages(SIZE)
    tensors = [memory.empty(shape, dtype).fill_(number) for number, (shape, dtype) in enumerate(SHAPES)]
    del memory  # which the tensors keep
    for number, (tensor, (shape, dtype)) in enumerate(zip(tensors, SHAPES, strict=True)):
        assert tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
        assert (tensor == number).all()


@pytest.mark.skipif(
    not OF_KERNEL.exists() or "[never]" in OF_KERNEL.read_text(), reason="The kernel has no huge pages."
)
def test_the_kernel_is_asked_for_huge_pages():
    size = 8 << 20
    tensor = HugePages(size).empty((size,), torch.uint8)
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = next(line for line in lines if holds(line, tensor.data_ptr()))
    flags = next(line for line in lines if line.startswith("VmFlags"))
    assert found.split()[1] == "rw-p"  # private
    assert "hg" in flags.split()


def holds(line, address):
    """Whether a line of smaps begins a mapping that holds an address."""
    start, _, end = line.split()[0].partition("-")
    return bool(end) and int(start, 16) <= address < int(end, 16)


def test_memory_that_is_used_up_is_an_error():
    memory = HugePages(SIZE)
    memory.empty((SIZE,), torch.uint8)
    with pytest.raises(RuntimeError):
        memory.empty((1,), torch.float32)


@pytest.mark.parametrize("kernel", ["without huge pages", "of another system"])
def test_without_huge_pages_it_is_usual_memory(kernel, monkeypatch):
    if kernel == "of another system":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    else:
        monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1, raising=False)  # madvise refuses it
    assert (huge_pages.HugePages(64).empty((16,), torch.float32).fill_(2.0) == 2.0).all()
