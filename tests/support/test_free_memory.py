"""What is done after memory ran out, on a runtime that keeps a last error per thread as CUDA's does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trl_ext.support import free_memory

LEFT_BEHIND = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"


class Runtime(TorchDispatchMode):
    """Every kernel of PyTorch reads, clears and raises the last error of the thread that launches it.

    The CPU runs backward passes in the calling thread; here they count as a thread of their own, as on a GPU.
    """

    def __init__(self, *pending: str, persists: str | None = None) -> None:
        super().__init__()
        self.pending = set(pending)
        self.persists = persists

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.persists:
            raise torch.AcceleratorError(self.persists)
        thread = "forward" if torch._C._current_graph_task_id() == -1 else "backward"
        if thread in self.pending:
            self.pending.remove(thread)
            raise torch.AcceleratorError(LEFT_BEHIND)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("pending", [(), ("forward",), ("backward",), ("forward", "backward")])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_pending_error_is_cleared_in_both_threads(pending, gradients):
    with Runtime(*pending) as runtime, torch.set_grad_enabled(gradients):
        free_memory.clear_pending_errors(torch.device("cpu"))
        assert not runtime.pending


def test_a_broken_device_is_reported_and_a_full_one_is_not():
    illegal = "CUDA error: an illegal memory access was encountered"
    with Runtime(persists=illegal), pytest.raises(RuntimeError, match="illegal memory access"):
        free_memory.clear_pending_errors(torch.device("cpu"))
    with Runtime(persists="CUDA error: out of memory"):
        free_memory.clear_pending_errors(torch.device("cpu"))  # the next attempt fails again, and says so


def test_errors_are_cleared_after_the_cache_is_emptied_and_only_where_cuda_is_in_use(monkeypatch):
    done = []
    monkeypatch.setattr(free_memory, "clear_device_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(free_memory, "clear_pending_errors", done.append)
    free_memory.release()
    assert done == ["emptied"]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    free_memory.release()
    assert done == ["emptied", "emptied", torch.device("cuda", 1)]
