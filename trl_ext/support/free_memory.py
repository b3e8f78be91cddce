"""Free the memory of an attempt that failed, so that the next one can succeed."""

import gc

import torch
from accelerate.utils.memory import clear_device_cache

from trl_ext.support.memory_errors import is_out_of_memory


def release() -> None:
    """Free the memory of a failed attempt. Call it outside the handler, whose traceback keeps the graph alive."""
    gc.collect()
    clear_device_cache()
    if torch.cuda.is_initialized():
        clear_pending_errors(torch.device("cuda", torch.cuda.current_device()))


def clear_pending_errors(device: torch.device) -> None:
    """Clear the CUDA runtime's last error, which an allocation that failed in a library leaves behind.

    bitsandbytes reads it after each of its kernels and ends the process if there is one, whoever caused it. PyTorch reads and
    clears it after each kernel. The CUDA runtime keeps one per host thread, and the kernels of a backward pass are launched
    from a thread of their own. So a forward and a backward pass are run, each of which may raise once.

    Raises:
        RuntimeError: The error persists, so the device can no longer be used.
    """
    for is_last in (False, False, True):
        try:
            with torch.enable_grad():
                number = torch.ones((), device=device, requires_grad=True)
                torch.autograd.grad(number * number, number)
            return
        except RuntimeError as error:
            if is_last and not is_out_of_memory(error):
                raise
