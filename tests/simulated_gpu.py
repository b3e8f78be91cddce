"""A GPU simulated on the CPU: tensors that compute as ever, but refuse to meet tensors of another device.

Simulated: tensors lie on the CPU or on the GPU; what is computed from the latter stays there until it is copied. As in
CUDA, an operation on both raises, save that a CPU tensor without dimensions may take part in arithmetic (not in `cat`
and `stack`) and that indices may lie on the CPU. `.to`, `.cpu`, `.item` and `.tolist` copy. Numbers are those of a CPU.

Not simulated: memory, streams, kernels and dtypes that only a GPU has, autocast, generators of random numbers on the
GPU, which of several GPUs a tensor lies on, and operations besides `cat` and `stack` that refuse a CPU tensor without
dimensions. Transfers between the devices are counted, each as one whether or not its memory is pinned, and so is all that makes
the CPU wait: numbers that are read, and results whose size depends on numbers, such as those of boolean masks. In PyTorch's eyes the device is `meta`, which every build knows and nothing here needs otherwise, so code
that asks for `cuda` by name takes its other branch.
"""

import contextlib
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from trl_ext.batching import kernels

DEVICE = torch.device("meta")

COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
JOINS = (torch.ops.aten.cat.default, torch.ops.aten.stack.default)
INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten._unsafe_index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)
SYNCHRONISING = {
    "_local_scalar_dense", "equal", "masked_select", "nonzero", "repeat_interleave", "unique_consecutive", "unique_dim", "_unique2"
}  # fmt: skip
"""Operations whose result, or its size, the CPU has to wait for."""
LIBRARIES = re.compile(r"(?<=/)(trl_ext|trl|transformers|peft|accelerate)/")
CONSTRUCTORS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)


_TRANSFERS: list[list[str]] = []


@contextlib.contextmanager
def transfers() -> Iterator[list[str]]:
    """Context that lists every transfer between the devices, by operation and place in the code."""
    found: list[str] = []
    _TRANSFERS.append(found)
    try:
        yield found
    finally:
        _TRANSFERS.remove(found)


def _note(operation: str) -> None:
    if not _TRANSFERS:
        return
    frames = [frame for frame in traceback.extract_stack() if LIBRARIES.search(frame.filename)]
    place = (
        f"{frames[-1].filename[LIBRARIES.search(frames[-1].filename).start() :]}:{frames[-1].lineno}"
        if frames
        else "elsewhere"
    )
    for found in _TRANSFERS:
        found.append(f"{operation} at {place}")


class TwoDevicesError(RuntimeError):
    """An operation on tensors of which some lie on the CPU and some on the GPU."""


class OnGPU(torch.Tensor):
    """A tensor on the simulated GPU; `values` are its numbers, on the CPU."""

    is_meta = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "OnGPU":
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, values.shape, device=DEVICE, **layout)
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        _note("tolist")
        return self.detach().values.tolist()

    def __repr__(self) -> str:
        return f"OnGPU({self.values})"


def _run(func: Callable, args: tuple, kwargs: dict) -> Any:
    """Compute on the CPU; the result lies where PyTorch would put it.

    Raises:
        TwoDevicesError: Where CUDA would refuse.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    is_on_gpu = any(isinstance(tensor, OnGPU) for tensor in tensors)
    if is_on_gpu and func not in COPIES:
        _check_devices(func, args, kwargs, tensors)
    if kwargs.get("device") is not None:
        is_on_gpu = torch.device(kwargs["device"]) == DEVICE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if _transfers(func, args, tensors, to_gpu=is_on_gpu):
        _note(func._schema.name)
    values = [tensor.values if isinstance(tensor, OnGPU) else tensor for tensor in tensors]
    given = {id(value): tensor for value, tensor in zip(values, tensors, strict=True)}
    result = func(*_values(args), **_values(kwargs))
    if not is_on_gpu:
        return result
    # An operation in place returns the tensor it was given.
    return tree_map_only(torch.Tensor, lambda value: given[id(value)] if id(value) in given else OnGPU(value), result)


def _transfers(func: Callable, args: tuple, tensors: list[torch.Tensor], *, to_gpu: bool) -> bool:
    """Whether an operation copies between the devices, or makes the CPU wait."""
    is_given = any(isinstance(tensor, OnGPU) for tensor in tensors)
    if func in COPIES:
        return bool(tensors) and any(isinstance(tensor, OnGPU) != to_gpu for tensor in tensors)
    if func in INDEXING and is_given:
        indices = [index for index in tree_leaves(args[1]) if isinstance(index, torch.Tensor)]
        return any(not isinstance(i, OnGPU) or i.dtype in (torch.bool, torch.uint8) for i in indices)
    return is_given and func._schema.name.removeprefix("aten::") in SYNCHRONISING


def _values(tree: Any) -> Any:
    return tree_map_only(OnGPU, lambda tensor: tensor.values, tree)


def _check_devices(func: Callable, args: tuple, kwargs: dict, tensors: list[torch.Tensor]) -> None:
    met = tree_leaves((args[0], args[2:], kwargs)) if func in INDEXING else tensors
    strangers = [tensor for tensor in met if isinstance(tensor, torch.Tensor) and not isinstance(tensor, OnGPU)]
    is_written = func._schema.is_mutable or func in INDEXING
    if any(t.ndim or func in JOINS or (is_written and t is args[0]) for t in strangers):
        where = ", ".join(f"{'GPU' if isinstance(t, OnGPU) else 'CPU'} {tuple(t.shape)}" for t in tensors)
        raise TwoDevicesError(f"{func} of tensors on two devices: {where}")


class _Operations(TorchDispatchMode):
    """Carries out what makes new tensors on the GPU or moves tensors there."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    """Those of tensors from Python's numbers would leave the numbers out on `meta`, before any operation is seen."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in CONSTRUCTORS:
            return func(*args, **kwargs)
        is_new = func is torch.Tensor.new_tensor
        device = kwargs.pop("device", None) or (args[0].device if is_new else None)
        if is_new:
            func, kwargs = torch.tensor, {"dtype": args[0].dtype, **kwargs}
            args = args[1:]
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


def _lower_right(queries: int, keys: int) -> torch.Tensor:
    """The mask that PyTorch's bias, which knows kernels by the name of their device, stands for."""
    return torch.ones(queries, keys, dtype=torch.bool, device=DEVICE).tril(keys - queries)


@contextlib.contextmanager
def simulated_gpu() -> Iterator[None]:
    """Tensors put on `DEVICE` lie on the simulated GPU."""
    with pytest.MonkeyPatch.context() as patch, _Operations(), _Constructors():
        patch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
        patch.setattr(torch, "is_autocast_enabled", lambda *args: False)
        patch.setattr(kernels, "causal_lower_right", _lower_right)
        yield


@contextlib.contextmanager
def moved(trainer: Any) -> Iterator[None]:
    """The trainer's model lies on the simulated GPU, for good, and the trainer believes to run there."""
    with pytest.MonkeyPatch.context() as patch, simulated_gpu():
        for module in trainer.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(OnGPU(parameter.data), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = OnGPU(buffer)
        patch.setattr(type(trainer.args), "device", DEVICE)
        for state in (PartialState(), trainer.accelerator.state):  # each copies the former's when it is asked for
            patch.setattr(state, "device", DEVICE)
        yield
