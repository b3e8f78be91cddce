"""Measure the activation memory per token of a model, and the memory that is free for activations."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.training_args import OptimizerNames

from trl_ext.batching.budget import Footprint

USABLE = 0.9
"""Share of the free memory to plan with. The rest allows for fragmentation and for terms that are not counted."""
HEAD_TOKENS, HEAD_VOCABULARY = 4096, 32768
"""Block of logits that TRL's fused LM head holds at a time, float32."""


class Kept(NamedTuple):
    """Bytes that a forward pass keeps for the backward pass: inside the layers, outside, and the layers' inputs."""

    inside: int
    outside: int
    inputs: int


def footprint(
    model: nn.Module, trial: Callable[[int], tuple[Callable[[], torch.Tensor], int]]
) -> tuple[Footprint, list[nn.Module]]:
    """Measure the bytes per token that are kept for the backward pass, from rows of two lengths.

    Args:
        model: In training mode, with nothing checkpointed.
        trial: Makes a forward pass with gradients that is 1 or about 2 times as long, and counts its tokens.

    Returns:
        The footprint, and the layers in the order they ran.
    """
    (run, tokens), (run_twice, twice) = trial(1), trial(2)
    small, layers = kept(model, run)
    large, _ = kept(model, run_twice)
    count, more = max(len(layers), 1), max(twice - tokens, 1)
    inside, outside, inputs = ((b - a) / more for a, b in zip(small, large, strict=True))
    constant = max(small.inside + small.outside - (inside + outside) * tokens, 0.0)
    return Footprint(inside / count, inputs / count, outside, constant, len(layers)), layers


def kept(model: nn.Module, run: Callable[[], torch.Tensor]) -> tuple[Kept, list[nn.Module]]:
    """Measure the bytes that a forward pass keeps, and list the layers in the order they ran.

    They are counted and not kept, so a pass that would not fit in memory with a backward pass can be measured. Layers that
    run without gradient keep nothing and are not listed.
    """
    weights = [*model.parameters(), *model.buffers()]
    # A weak reference keeps its storage's identity from being used again, and no memory.
    known = {StorageWeakRef(part.untyped_storage()) for tensor in weights for part in _strided(tensor)}
    layers: list[nn.Module] = []
    bytes_in = {True: 0, False: 0}  # whether inside a layer
    inputs, depth = 0, 0

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal inputs, depth
        depth += 1
        if not torch.is_grad_enabled():
            return
        layers.append(module)
        hidden = args[0] if args else next(iter(kwargs.values()))
        inputs += hidden.numel() * hidden.element_size()

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    def count(tensor: torch.Tensor) -> None:
        for storage in (part.untyped_storage() for part in _strided(tensor)):
            reference = StorageWeakRef(storage)
            if reference not in known:
                known.add(reference)
                bytes_in[depth > 0] += storage.nbytes()

    handles = []
    for module in layers_of(model):
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return Kept(bytes_in[True], bytes_in[False], inputs), layers


def _strided(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors that hold the elements of a tensor. Some adapters compute with sparse ones, which have no storage."""
    return (tensor._indices(), tensor._values()) if tensor.layout is torch.sparse_coo else (tensor,)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """All layers that can be checkpointed, in the order in which the model lists them."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextlib.contextmanager
def nothing_checkpointed(model: nn.Module) -> Iterator[None]:
    """Context in which no layer is checkpointed."""
    flags = {m: m.gradient_checkpointing for m in model.modules() if hasattr(m, "gradient_checkpointing")}
    try:
        for module in flags:
            module.gradient_checkpointing = False
        yield
    finally:
        for module, flag in flags.items():
            module.gradient_checkpointing = flag


def free_for_activations(
    model: nn.Module, optimizer: Any, optim: str, device: torch.device, trained: list[nn.Parameter] | None = None
) -> float:
    """Bytes that activations may take: free memory, less what training has yet to allocate.

    These are the gradients and optimizer states of the trained weights, one dequantised weight matrix and a block of
    logits in the LM head.

    Args:
        model: The `transformers` model, adapters included.
        optimizer: The optimizer, if its states exist already; otherwise `None`.
        optim: Its name in transformers.
        device: Where the model lives.
        trained: The trained parameters (default: those that require gradients now).
    """
    trained = [p for p in model.parameters() if p.requires_grad] if trained is None else trained
    state = getattr(optimizer, "state", None) or {}
    pending = sum(p.numel() * p.element_size() for p in trained if p.grad is None)
    pending += sum(p.numel() for p in trained if p not in state) * _optimizer_bytes(OptimizerNames(optim).value)
    largest = max((_unpacked_elements(p) for p in model.parameters() if p.ndim == 2), default=0)
    head = HEAD_TOKENS * min(HEAD_VOCABULARY, model.config.get_text_config().vocab_size) * 4
    return max(USABLE * free(device) - pending - 4 * largest - head, 0)


def free(device: torch.device) -> float:
    """Bytes of the device that this process can still allocate."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, total = torch.cuda.mem_get_info(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    cap = total * torch.cuda.get_per_process_memory_fraction(device)
    return min(free + reserved, cap) - allocated if cap < total else free + reserved - allocated


def _unpacked_elements(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else 0


def _optimizer_bytes(name: str) -> float:
    """Bytes of optimizer state per trained weight."""
    if "8bit" in name:
        return 2.03
    if "sgd" in name or "adafactor" in name:
        return 4
    return 8
