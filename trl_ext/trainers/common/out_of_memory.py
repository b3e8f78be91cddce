"""Recognise out-of-memory errors, name the phase in which they occur, and free memory after them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from trl_ext.support.errors import UserError

OF_LIBRARIES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "[CUDA]: out of memory")
"""Messages of cuBLAS, the CUDA runtime and Triton."""


class RowsDoNotFitError(Exception):
    """Memory ran out on some process in the middle of a step; `is_here` if it was this one."""

    def __init__(self, is_here: bool = True) -> None:
        super().__init__("memory ran out")
        self.is_here = is_here


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, in PyTorch's allocator or in that of a library."""
    is_librarys = isinstance(error, RuntimeError) and any(words in str(error) for words in OF_LIBRARIES)
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error) or is_librarys


def release() -> None:
    """Free the memory of a failed attempt. Call it outside the handler, whose traceback keeps the graph alive."""
    gc.collect()
    clear_device_cache()


@contextmanager
def reported(phase: str, remedy: str) -> Iterator[None]:
    """Inside, an out-of-memory error becomes one that names the phase and what to do.

    Args:
        phase: What is done inside, after "Out of memory".
        remedy: What to lower or switch on, after a colon.

    Raises:
        UserError: Memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"Out of memory {phase}: {remedy}.") from error
