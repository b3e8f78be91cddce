"""What is done after memory ran out, on a runtime that keeps a last error per thread as CUDA's does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trl_ext.support.errors import UserError
from trl_ext.trainers.common import out_of_memory

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
        out_of_memory.clear_pending_errors(torch.device("cpu"))
        assert not runtime.pending


def test_a_broken_device_is_reported_and_a_full_one_is_not():
    illegal = "CUDA error: an illegal memory access was encountered"
    with Runtime(persists=illegal), pytest.raises(RuntimeError, match="illegal memory access"):
        out_of_memory.clear_pending_errors(torch.device("cpu"))
    with Runtime(persists="CUDA error: out of memory"):
        out_of_memory.clear_pending_errors(torch.device("cpu"))  # the next attempt fails again, and says so


def test_errors_are_cleared_after_the_cache_is_emptied_and_only_where_cuda_is_in_use(monkeypatch):
    done = []
    monkeypatch.setattr(out_of_memory, "clear_device_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(out_of_memory, "clear_pending_errors", done.append)
    out_of_memory.release()
    assert done == ["emptied"]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    out_of_memory.release()
    assert done == ["emptied", "emptied", torch.device("cuda", 1)]


def test_work_is_repeated_unchanged_once_in_an_interval():
    unchanged = out_of_memory.Unchanged(3)
    allowed = []
    for _ in range(7):
        unchanged.begin()
        allowed.append((unchanged.is_allowed(), unchanged.is_allowed()))
    assert allowed == [(True, False), (False, False), (False, False)] * 2 + [(True, False)]


def test_the_phase_is_named_and_a_librarys_error_is_quoted():
    with pytest.raises(UserError) as raised, out_of_memory.reported("in training", "lower `max_length`"):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore")
    assert str(raised.value) == (
        "Out of memory in training (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`): "
        "lower `max_length`."
    )
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory.reported("in training", "lower `max_length`"):
        raise RuntimeError("shapes cannot be multiplied")
