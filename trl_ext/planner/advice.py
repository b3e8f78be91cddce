"""Find the flags that make a recipe fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trl_ext.planner.fitting import Fit
from trl_ext.planner.request import Request, read
from trl_ext.planner.sampling import MERGED, VLLM
from trl_ext.support.errors import UserError

SHORTEST = 256
"""Smallest `max_length` that is suggested; shorter sequences teach nothing useful."""


def flags(recipe: Any, request: Request, fit: Callable[[Request], Fit]) -> tuple[list[str], bool]:
    """The fewest changes that make a recipe fit, the cheapest first.

    Args:
        recipe: The recipe that does not fit.
        request: What it asks for.
        fit: Makes the `Fit` of a request on the card.

    Returns:
        Flags, and whether they suffice. If no flags suffice, all that were tried.
    """
    chosen: list[dict[str, Any]] = []
    for change in _changes(request):
        chosen.append(change)
        if _fits(recipe, chosen, fit):
            break
    else:
        return [text for change in chosen for text in _as_flags(change)], False
    for change in list(chosen):  # drop those that later ones made unnecessary
        without = [other for other in chosen if other is not change]
        if without and _fits(recipe, without, fit):
            chosen = without
    return [text for change in chosen for text in _as_flags(change)], True


def _changes(request: Request) -> list[dict[str, Any]]:
    storage, adapter = request.storage, request.shape.adapter
    found: list[dict[str, Any]] = []
    if request.sampling.source == MERGED:
        found.append({"sampling_weights": "adapter"})
    if request.sampling.source == VLLM and not request.sampling.sleeps:
        found.append({"vllm_enable_sleep_mode": True})
    if adapter is None:
        found.append({"use_peft": True, "lora_target_modules": ["all-linear"]})
    if storage.weight == 4:
        found.append({"dtype": "bfloat16"})
    if request.stored is not None:
        pass  # loading cannot change how it is quantised
    elif storage.bits > 4:
        found.append({"load_in_4bit": True, "use_bnb_nested_quant": True})
        if storage.bits == 8:
            found[-1]["load_in_8bit"] = False
    elif not storage.is_double:
        found.append({"use_bnb_nested_quant": True})
    training = request.training
    if training.checkpointing is False:
        found.append({"gradient_checkpointing": "auto"})
    if training.owns_rows and training.row_tokens is not None:
        found.append({"row_tokens": "auto"})
    if not training.owns_rows and training.row_tokens > request.longest:
        found.append({"per_device_train_batch_size": 1, "gradient_accumulation_steps": request.examples_per_step})
    if "8bit" not in storage.optimizer:
        found.append({"optim": "paged_adamw_8bit"})
    if training.cannot_pack == "`packing` is off" and request.shape.cannot_pack is None:
        found.append({"packing": True})
    if adapter is not None and adapter.rank > 16 and not request.is_continued:
        found.append({"lora_r": 16})
    length = training.length // 2
    while length >= SHORTEST:
        found.append({training.length_key: length})
        length //= 2
    return found


def _fits(recipe: Any, changes: list[dict[str, Any]], fit: Callable[[Request], Fit]) -> bool:
    values = dict(recipe.values)
    for change in changes:
        values |= change
    try:
        return fit(read(replace(recipe, values=values))).choose() is not None
    except UserError:
        return False


def _as_flags(change: dict[str, Any]) -> list[str]:
    def text(value: Any) -> str:
        value = value[0] if isinstance(value, list) else value
        return str(value).lower() if isinstance(value, bool) else str(value)

    return [f"--{key} {text(value)}" for key, value in change.items()]
