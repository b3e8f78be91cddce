"""Try the kernels training needs on the device with small tensors: bitsandbytes, Triton, attention."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.doctor import gpu
from trl_ext.doctor.finding import Finding, fails, first_line, passed, warns

WIDTH, ROWS = 64, 8
"""Sizes of the test matrices."""
TOLERANCE = 0.05
"""Relative difference allowed between two computations of the same value in 16 bits."""


def bitsandbytes(device: Any) -> Iterator[Finding]:
    """Check 4-bit matrix products, forward and backward, against the dequantised weight, and an 8-bit optimizer step."""
    where = "the CPU" if device.type == "cpu" else device.type
    problems = [*_four_bits(device, where), *_eight_bits(device, where)]
    yield from problems or [passed("bitsandbytes", f"4-bit products and 8-bit AdamW work on {where}")]


def _four_bits(device: Any, where: str) -> Iterator[Finding]:
    try:
        error = four_bits(device)
    except Exception as caught:  # a missing library, kernel or symbol
        yield fails(
            "bitsandbytes",
            f"4-bit products do not work on {where} ({first_line(caught)})",
            "Run `python -m bitsandbytes` to see what is missing, or train without it (`load_in_4bit: false`).",
        )
        return
    if error > TOLERANCE:
        yield fails(
            "bitsandbytes",
            f"4-bit products on {where} are off by {error:.0%}",
            "Run pip install --force-reinstall --no-deps bitsandbytes, or train without it (`load_in_4bit: false`).",
        )


def _eight_bits(device: Any, where: str) -> Iterator[Finding]:
    try:
        eight_bit_step(device)
    except Exception as caught:
        yield fails(
            "8-bit AdamW",
            f"a step fails on {where} ({first_line(caught)})",
            "Use `optim: adamw_torch`, or run `python -m bitsandbytes` to see what is missing.",
        )


def four_bits(device: Any) -> float:
    """Largest relative error of an NF4 linear layer's output and input gradient."""
    import bitsandbytes as bnb
    import torch

    dtype = _dtype(device)
    layer = bnb.nn.Linear4bit(WIDTH, WIDTH, bias=False, compute_dtype=dtype, quant_type="nf4").to(device)
    inputs = torch.randn(ROWS, WIDTH, device=device, dtype=dtype, requires_grad=True)
    outputs = layer(inputs)
    outputs.sum().backward()
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
    gradient = weight.sum(0).expand(ROWS, WIDTH)
    return max(_error(outputs, inputs @ weight.T), _error(inputs.grad, gradient))


def eight_bit_step(device: Any) -> None:
    """Take one step with 8-bit moments. ArithmeticError if the weights did not move by the learning rate."""
    import bitsandbytes as bnb
    import torch

    weight = torch.nn.Parameter(torch.zeros(WIDTH, WIDTH, device=device))  # 4096 elements: fewer are kept in 32 bits
    weight.grad = torch.ones_like(weight)
    bnb.optim.AdamW8bit([weight], lr=0.5, weight_decay=0.0).step()
    moved = weight.detach().abs().mean().item()
    if not abs(moved - 0.5) < 0.05:
        raise ArithmeticError(f"weights moved by {moved:.3g} instead of 0.5")


def triton(device: Any) -> Iterator[Finding]:
    """Check that Triton compiles. TRL's kernels use it on GPUs."""
    if device.type == "cpu":
        return
    try:
        from trl_ext.doctor import triton_kernel

        triton_kernel.run(device)
    except ImportError as error:
        yield fails("Triton", first_line(error), "Run pip install triton. It comes with torch for CUDA and ROCm.")
    except Exception as error:
        yield fails("Triton", f"does not compile ({first_line(error)})", without_a_compiler() or REINSTALL_TRITON)
    else:
        yield passed("Triton", "compiles")


REINSTALL_TRITON = "Remove its cache (rm -r ~/.triton), then reinstall torch, which brings the matching Triton."


def without_a_compiler() -> str | None:
    """What to install so that Triton can build its launchers; `None` if nothing is missing."""
    compiler = os.environ.get("CC") or "gcc"
    if not any(shutil.which(name) for name in (compiler, "gcc", "clang", "cl")):
        return "Install a C compiler: sudo apt install gcc, on Debian or Ubuntu."
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return f"Install Python's headers: sudo apt install python{version}-dev, on Debian or Ubuntu."
    return None


def attention(device: Any, wanted: str | None = None) -> Iterator[Finding]:
    """Check the attention kernels of packed rows against each other.

    Args:
        wanted: `attn_implementation` of the recipe, used by rows that cannot be packed.
    """
    from trl_ext.batching import kernels

    working, problem = kernels.usable(device, _dtype(device)), None
    try:
        error = packed_row(device)
        if error > TOLERANCE:
            problem = f"results off by {error:.0%}"
    except Exception as caught:
        problem = first_line(caught)
    fastest = kernels.IN_WORDS[working[0]]
    if problem is None:
        yield passed("attention", f"packed rows: {fastest}")
    elif len(working) > 1:
        yield warns(
            "attention",
            f"{fastest}: {problem}",
            f"Runs use {kernels.IN_WORDS[working[1]]} instead, which is slower. Another torch or driver may help.",
        )
    else:
        remedy = "Reinstall torch, or use `packing: false` with `attn_implementation: eager`."
        yield fails("attention", f"{fastest}: {problem}", remedy)
    if wanted and wanted.startswith("flash_attention") and not has_flash_attention(wanted):
        yield fails(
            "flash-attn",
            f"`attn_implementation` is {wanted}, but its package does not work here",
            "Remove the line (packed rows use PyTorch's own flash kernels), or run pip install flash-attn --no-build-isolation.",
        )


def packed_row(device: Any) -> float:
    """Relative difference between the fastest kernel and the definition of attention, on a small packed row."""
    import torch

    from trl_ext.batching import kernels
    from trl_ext.batching.attention import SegmentMask
    from trl_ext.batching.packed import Tree, pack

    layout = pack([Tree([5] * 24, [[6] * 16, [7] * 40]), Tree([8] * 9, [[9] * 3])]).layout
    layout.positions = layout.positions.to(device)
    dtype, tokens = _dtype(device), layout.segments[-1].stop
    query, key, value = (torch.randn(1, heads, tokens, WIDTH, device=device, dtype=dtype) for heads in (4, 2, 2))
    if kernels.usable(device, dtype)[0] == kernels.VARLEN:
        found = kernels.varlen(query, key, value, layout.sequences, None, None)
    else:
        found = kernels.by_segments(query, key, value, SegmentMask(layout, None, None), None, 0.0)
    return _error(found, by_definition(query, key, value, layout))


def by_definition(query: Any, key: Any, value: Any, layout: Any) -> Any:
    """Attention with an explicit mask, in float32 on the CPU."""
    import torch

    query, key, value = (tensor.float().cpu() for tensor in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    seen = torch.zeros(query.shape[2], query.shape[2], dtype=torch.bool)
    for start, stop, prefix in layout.segments:
        seen[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril().bool()
        if prefix is not None:
            seen[start:stop, slice(*prefix)] = True
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * WIDTH**-0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2)


def has_flash_attention(name: str) -> bool:
    """Whether transformers finds a package for `name`: flash-attn, or `kernels`, which downloads one."""
    from transformers import utils

    has = {"flash_attention_2": "is_flash_attn_2_available", "flash_attention_3": "is_flash_attn_3_available"}
    return getattr(utils, has.get(name, ""), lambda: True)() or utils.is_kernels_available()


def _dtype(device: Any) -> Any:
    """The dtype of a run on this device, as `trl_ext.build.dtypes.precision` chooses it."""
    import torch

    if device.type == "cpu":
        return torch.float32
    found = gpu.card()
    return torch.bfloat16 if found is None or found.has_bf16 else torch.float16


def _error(found: Any, right: Any) -> float:
    """Largest difference relative to the largest value; infinite if there are NaNs."""
    found, right = found.detach().float().cpu(), right.detach().float().cpu()
    error = ((found - right).abs().max() / right.abs().max()).item()
    return error if error == error else float("inf")
