"""Recognise errors that mean that memory ran out, whoever reports them."""

import re

import torch
from accelerate.utils.memory import should_reduce_batch_size

OF_LIBRARIES = re.compile(
    r"out of memory"  # "CUDA error: …", "CUDA driver error: …" of expandable segments, "HIP error: …", "Triton Error [CUDA]: …"
    r"|OUT_OF_MEMORY"  # CUDA_ERROR_OUT_OF_MEMORY, where the driver's constant is printed
    r"|ALLOC(ATION)?_FAILED"  # cuBLAS, cuDNN to 8, cuSOLVER, cuFFT; cuDNN 9's INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    r"|CUBLAS_STATUS_NOT_INITIALIZED"  # cublasCreate needs memory for its handle
    r"|not enough memory: you tried to allocate"  # PyTorch's CPU allocator on Windows
)
"""Messages of the CUDA runtime and driver, of NVIDIA's libraries, of Triton, and of CPU allocators."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in PyTorch's allocator or in that of a library."""
    if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
        return True
    return isinstance(error, RuntimeError) and OF_LIBRARIES.search(str(error)) is not None


def in_parentheses(error: BaseException | None) -> str:
    """The first line of a library's error, to be put after "Out of memory …"; empty for PyTorch's own error.

    A library's status may have another cause than memory, so it is quoted: CUBLAS_STATUS_NOT_INITIALIZED is also what an
    unsuitable driver leads to.
    """
    if error is None or isinstance(error, torch.OutOfMemoryError) or not str(error).strip():
        return ""
    return f" ({str(error).strip().splitlines()[0].rstrip('.')})"
