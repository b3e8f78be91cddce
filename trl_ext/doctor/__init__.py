"""Check this computer, and a recipe if one is given: one function per check, one line of the report per finding.

A check yields `Finding`s and imports heavy packages itself. An error in one check never hides the others.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from trl_ext.doctor import data, gpu, kernels, model, packages, recipe, room, speed
from trl_ext.doctor.finding import Finding, Status, fails, first_line
from trl_ext.runs import libraries

__all__ = ["Finding", "Status", "examine"]


def examine(path: str | None = None, overrides: dict[str, Any] | None = None) -> Iterator[Finding]:
    """Run all checks, cheap ones first, and yield each finding as soon as it is known.

    Args:
        path: A recipe to check together with the computer.
        overrides: Values that replace those of the recipe, by key.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about drivers, which the findings report better
        yield from _examine(path, overrides or {})


def _examine(path: str | None, overrides: dict[str, Any]) -> Iterator[Finding]:
    yield from guarded("packages", packages.python_and_packages)
    loaded = planned = device = None
    if path is not None:
        loaded, findings = recipe.read(path, overrides)
        yield from findings
        if loaded is not None:
            libraries.configure(loaded)  # before the checks below import them
    broken = list(guarded("torch", imports_torch))
    yield from broken
    if not broken:
        device = device_of(loaded)
        for name, check in (("GPU", gpu.gpu), ("VRAM", gpu.memory), ("precision", gpu.bfloat16)):
            yield from guarded(name, check)
        for name, check in (("bitsandbytes", kernels.bitsandbytes), ("Triton", kernels.triton)):
            yield from guarded(name, check, device)
        yield from guarded("attention", kernels.attention, device, loaded and loaded.get("attn_implementation"))
    if loaded is not None:
        planned = yield from _planned(loaded)
        if planned is not None and device is not None and device.type == "cpu":
            yield from guarded("speed", speed.on_cpu, loaded, planned)
        yield from guarded("model", model.on_this_computer, loaded, planned)
        yield from guarded("tokenizer", model.tokenizer, loaded)
        yield from guarded("data", data.on_this_computer, loaded)
    yield from guarded("disk", lambda: room.disks(room.places(loaded, planned, _downloads(loaded, planned))))
    yield from guarded("RAM", room.memory)


def guarded(name: str, check: Callable[..., Iterator[Finding]], *arguments: Any) -> Iterator[Finding]:
    """The findings of a check, or a failure if it raised an error."""
    try:
        yield from check(*arguments)
    except Exception as error:
        remedy = "Fix the error it names and run the doctor again; a run will most likely fail there too."
        yield fails(name, f"could not be checked ({first_line(error)})", remedy)


def imports_torch() -> Iterator[Finding]:
    """Yield a failure if torch cannot be imported."""
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        yield fails("torch", f"cannot be imported ({first_line(error)})", "pip install --force-reinstall torch")


def device_of(loaded: Any) -> Any:
    """The device a run would use."""
    import torch

    on_cpu = loaded is not None and loaded.get("use_cpu")
    found = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")


def _planned(loaded: Any) -> Any:
    try:
        planned, findings = recipe.plan(loaded)
    except Exception as error:
        planned, findings = (
            None,
            [fails("plan", f"could not be made ({first_line(error)})", "This is a bug in trl-ext: please report it.")],
        )
    yield from findings
    return planned


def _downloads(loaded: Any, planned: Any) -> float:
    """GiB of weights still to be downloaded; 0 if unknown."""
    if loaded is None or planned is None or model.missing(loaded) is None:
        return 0.0
    return 2 * planned.parameters / gpu.GIB
