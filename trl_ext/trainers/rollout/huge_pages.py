"""Memory in huge pages, where Linux has them: what is read from end to end for every token is read faster from few large pages.

With pages of 4 KiB a CPU looks up the address of each page, and in a virtual machine twice.
"""

import contextlib
import math
import mmap

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes of a cache line."""
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
"""Linux seldom has huge pages for memory that processes share, which is what `mmap` makes otherwise. Windows has no such flags."""


class HugePages:
    """Memory for tensors on the CPU. What no tensor was made of takes none.

    Args:
        size: Bytes for all tensors, those of `padded` for each.
    """

    def __init__(self, size: int) -> None:
        mapped = mmap.mmap(-1, max(size, 1), **PRIVATE)
        with contextlib.suppress(AttributeError, OSError):  # another system, or a kernel without huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE)
        self._memory = torch.frombuffer(mapped, dtype=torch.uint8)
        self._used = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As `torch.empty`."""
        start = self._used
        size = math.prod(shape) * dtype.itemsize
        self._used += padded(size)
        return self._memory[start : start + size].view(dtype).view(shape)


def padded(size: int) -> int:
    """Bytes that a tensor of `size` bytes takes."""
    return -(-size // ALIGNMENT) * ALIGNMENT
