"""Memory that runs out has many faces: the texts are those that the libraries print."""

import pytest
import torch
from accelerate.utils.memory import should_reduce_batch_size

from trl_ext.support.memory_errors import in_parentheses, is_out_of_memory

CUBLAS = "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs"),
        RuntimeError("CUDA driver error: out of memory"),  # cuMemCreate of expandable segments
        RuntimeError("HIP error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("Triton Error [HIP]:  Code: 2, Messsage: out of memory"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        RuntimeError(CUBLAS),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`. "),
        RuntimeError("XPU out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
    ],
)
def test_memory_that_runs_out_is_recognised_whoever_says_so(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(…)`"),
        RuntimeError("CUDA error: too many resources requested for launch"),
        RuntimeError("out of resource: shared memory, Required: 147456, Hardware limit: 101376"),
        RuntimeError(
            "It is possible that dataloader's workers are out of shared memory. Please try to raise your limit."
        ),
        RuntimeError("CUDA driver error: device not ready"),
        ValueError("out of memory."),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def test_what_accelerate_recognises_is_recognised_here():
    error = RuntimeError(
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous"
    )
    assert should_reduce_batch_size(error) and is_out_of_memory(error)


def test_a_librarys_error_is_quoted_and_pytorchs_is_not():
    assert in_parentheses(RuntimeError(f"{CUBLAS}\nCompile with `TORCH_USE_CUDA_DSA`")) == f" ({CUBLAS})"
    assert in_parentheses(RuntimeError("CUDA driver error: out of memory.")) == " (CUDA driver error: out of memory)"
    assert in_parentheses(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")) == ""
    assert in_parentheses(RuntimeError("")) == in_parentheses(None) == ""
