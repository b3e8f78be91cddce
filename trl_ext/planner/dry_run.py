"""Run a training step on fake tensors: the real model, LoRA, 4-bit layers, packed rows and LM head, without data.

PyTorch's `FakeTensorMode` runs every operation for its shapes and dtypes alone. A tracker adds up the storages that are
alive at any time, which gives the peak of a step on a machine without a GPU. The tensors are on the CPU, since a CPU build
cannot differentiate fake CUDA tensors. `_as_on_cuda` corrects the few places where the libraries behave differently there.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from trl_ext.batching import token_kl
from trl_ext.batching.head import head_sees
from trl_ext.fused import lora as fused_lora
from trl_ext.fused import norm, swiglu
from trl_ext.planner import counting, fake_model, lora, memory, request
from trl_ext.planner.memory import EAGER, SDPA, VARLEN, Row, Storage
from trl_ext.planner.vram_plan import VramPlan
from trl_ext.support.errors import UserError


@dataclass(frozen=True)
class Measured:
    """Bytes of live tensors.

    Attributes:
        row: The row that was run, with the shares of its actual sequences.
        static: Weights, adapter and gradients, before the step.
        stored: Tensors stored for the backward pass, at the end of the forward pass.
        peak: Maximum at any time, `static` included.
    """

    row: Row
    static: float
    stored: float
    peak: float


def run(
    config: dict[str, Any],
    row: Row,
    storage: Storage,
    *,
    rank: int | None = None,
    targets: lora.Targets = lora.ALL_LINEAR,
    parameters: list[str] | None = None,
    checkpointed_layers: int = 0,
    is_fused: bool = True,
) -> Measured:
    """Run one forward and backward pass.

    Args:
        config: The content of a config.json.
        row: A packed row for the variable-length kernel, or padded rows for `sdpa` or `eager`.
        storage: 4-bit or unquantised weights.
        rank, targets, parameters: Rank and targets of the LoRA; without a rank all weights are trained.
        is_fused: Whether its layers are those of `trl_ext.fused`, or of PEFT and transformers.

    Raises:
        UserError: 8-bit weights, or attention segment by segment, neither of which can run on fake tensors.
    """
    is_foreign = storage.scheme is not None and storage.scheme.is_double is None  # not of bitsandbytes
    if storage.bits == 8 or is_foreign or row.kernel not in (VARLEN, SDPA, EAGER):
        raise UserError(
            "The dry run (`--exact`) supports only 4-bit and unquantised weights, and attention in one kernel. Remove `--exact` "
            "for `load_in_8bit`, for checkpoints that are stored quantised otherwise, and for attention that runs segment by segment."
        )
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        model = fake_model.build(config, storage, rank, targets, parameters)
        if is_fused:
            for fuse in (norm.fuse, swiglu.fuse, fused_lora.fuse):
                fuse(model)
        base = model.get_base_model() if rank is not None else model
        step, row = _packed_step(model, base, row) if row.kernel == VARLEN else _padded_step(model, base, row)
        _checkpoint(base, checkpointed_layers)
        with FakeTensorMode(), _as_on_cuda():
            live = _Live()
            live.count(fake_model.allocate(model))
            static, inputs = live.bytes, step.inputs()
            with live:
                with torch.autocast("cpu", torch.bfloat16):
                    before = _states(base, row, step.scored) if row.reads_distributions else None
                    with step.around(inputs) as states:
                        loss = model(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum()
                    if before is not None:
                        loss = loss + token_kl.token_kl(before, states.pop(), base.config).sum()
                        del before
                    states.clear()
                stored = live.bytes - static
                loss.backward()
    return Measured(row, static, stored, live.peak)


def compare(recipe: Any, planned: VramPlan) -> dict[str, float]:
    """Peak of live tensors at the planned rows and layers, by the formulas and by a dry run.

    Returns:
        `tokens` of the row; `arithmetic` and `dry_run` in bytes, both with the optimizer's state.
    """
    asked = request.read(recipe)
    found = run(
        asked.config,
        asked.row(planned.row_tokens),
        asked.storage,
        rank=asked.shape.adapter.rank if asked.shape.adapter else None,
        targets=asked.targets,
        parameters=asked.parameters,
        checkpointed_layers=planned.checkpointed_layers,
        is_fused=asked.is_fused,
    )
    optimizer = memory.training_state(asked.shape, asked.storage)["optimizer"]
    arithmetic = memory.peak(asked.shape, found.row, asked.storage, planned.checkpointed_layers)
    return {"tokens": found.row.tokens, "arithmetic": arithmetic, "dry_run": found.peak + optimizer}


class _Live(TorchDispatchMode):
    """Tracks the bytes of live storages, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def count(self, tensors: Any) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key in self._known:
                continue
            self._known[key] = weakref.ref(storage, lambda _, key=key, size=size: self._free(key, size))
            self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _free(self, key: int, size: int) -> None:
        del self._known[key]
        self.bytes -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        self.count(value for value in tree_iter(out) if isinstance(value, torch.Tensor))
        return out


def _checkpoint(base: Any, count: int) -> None:
    if not count:
        return
    base.gradient_checkpointing_enable({"use_reentrant": False})
    for number, layer in enumerate(counting.decoder_layers(base, base.config.get_text_config())):
        layer.gradient_checkpointing = number < count


@dataclass
class _Step:
    """Inputs of the model, a context manager around its forward pass, and the number of scored tokens, by packed or padded rows.

    The context returns a list to which the states that the LM head reads are added.
    """

    inputs: Any
    around: Any
    scored: int


def _states(base: Any, row: Row, scored: int) -> token_kl.States:
    """States of the reference before its LM head."""
    head = base.get_output_embeddings()
    hidden = torch.empty(scored, head.in_features, dtype={2: torch.bfloat16, 4: torch.float32}[row.activation])
    return token_kl.States(hidden, head.weight, head.bias)


def _packed_step(model: Any, base: Any, row: Row) -> tuple[_Step, Row]:
    from trl_ext.batching import attention, kernels
    from trl_ext.batching.packed import Layout, Tree, pack

    prompt = max(round(row.tokens * (1 - row.completion_share)), 1)
    chosen = (row.tokens - prompt - 1) // 2
    packed = pack([Tree([0] * prompt, [[0] * chosen, [0] * (row.tokens - prompt - 1 - chosen)])])
    tokens, scored = packed.input_ids.numel(), int((packed.labels != -100).sum())
    keys = packed.layout.sequences.key_starts[-1].item()
    attention.switch(base, kernels.VARLEN)

    def inputs() -> dict[str, Any]:
        ids = torch.empty(1, tokens, dtype=torch.long)
        labels = torch.empty(1, scored, dtype=torch.long)
        return {
            "input_ids": ids,
            "position_ids": torch.empty_like(ids),
            "attention_mask": torch.ones_like(ids),
            "shift_labels": labels,
        }

    @contextlib.contextmanager
    def around(given: dict[str, Any]) -> Iterator[list[token_kl.States]]:
        layout = Layout(packed.layout.segments, given["position_ids"][0])
        with attention.packed(layout), _head_sees_some(base, scored) as states:
            yield states

    return _Step(inputs, around, scored), replace(
        row, tokens=tokens, completion_share=scored / tokens, keys_per_token=keys / tokens
    )


def _padded_step(model: Any, base: Any, row: Row) -> tuple[_Step, Row]:
    count = max(row.tokens // row.width, 1)
    scored = round(count * row.width * row.completion_share)
    base.set_attn_implementation(row.kernel)

    def inputs() -> dict[str, Any]:
        ids = torch.empty(count, row.width, dtype=torch.long)
        labels = torch.empty(1, scored, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "shift_labels": labels}

    step = _Step(inputs, lambda given: _head_sees_some(base, scored), scored)
    return step, replace(row, tokens=count * row.width)


@contextlib.contextmanager
def _head_sees_some(base: Any, scored: int) -> Iterator[list[token_kl.States]]:
    """Context in which the LM head sees `scored` states; which ones does not matter for fake tensors. They are added to the list."""
    states: list[token_kl.States] = []

    def select(hidden: torch.Tensor) -> torch.Tensor:
        selected = hidden.flatten(0, 1)[None][:, torch.empty(scored, dtype=torch.long)]
        head = base.get_output_embeddings()
        states.append(token_kl.States(selected[0], head.weight, head.bias))
        return selected

    with head_sees(base, select):
        yield states


class _NormKernel(torch.autograd.Function):
    """The tensors of PyTorch's RMSNorm on CUDA: it stores its input and one float32 number per norm."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        ctx.save_for_backward(x, weight, torch.empty(*x.shape[:-1], 1))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None, None


@contextlib.contextmanager
def _as_on_cuda() -> Iterator[None]:
    """Inside, fake CPU tensors take the memory that CUDA tensors would take.

    PEFT reads CUDA's autocast state on every device. RMSNorm has a kernel. The LM head reduces a block of logits in place with Triton and
    multiplies with float32 accumulation; its CPU fallback makes float32 copies instead.
    """
    from trl.kernels import chunked_logprob as head

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def tile_tokens(vocabulary: int, device: Any) -> int:
        return max(1, token_kl.LOGITS // vocabulary)

    def has_kernel(x: torch.Tensor, weight: torch.Tensor, offset: float) -> bool:
        return offset == 0 and x.dtype == weight.dtype

    was_on = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with (
            mock.patch.multiple(head, _forward_tile=nothing, _backward_tile=nothing, _addmm_fp32=nothing),
            mock.patch.multiple(norm, has_kernel=has_kernel, kernel=_NormKernel.apply),
            mock.patch.object(token_kl, "tile_tokens", tile_tokens),
        ):
            yield
    finally:
        torch.set_autocast_enabled("cuda", was_on)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, bitsandbytes does not log which optional CPU kernels are missing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
