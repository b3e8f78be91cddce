"""Look at the accelerator of this machine without importing torch: by torch's build, NVIDIA's driver and the variables it reads."""

import ctypes
import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32 and bfloat16."""

LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


def has_accelerator() -> bool | None:
    """Whether torch would train on an accelerator here; `None` if that is not known."""
    build = _build_of_torch()
    if sys.platform == "darwin":
        return platform.machine() == "arm64" or None
    if build == "cpu":
        return False
    if build and not build.startswith("cu"):
        return None  # of AMD, Intel and others
    return bool(capabilities())


def capability() -> tuple[int, int] | None:
    """The compute capability of the NVIDIA GPU that is used; `None` if there is none or it is not known."""
    found = capabilities()
    return found[0] if found else None


@cache
def capabilities() -> list[tuple[int, int]]:
    """The compute capability of each NVIDIA GPU that CUDA may use, from the driver; no context is made on any."""
    try:
        library = ctypes.CDLL(LIBRARY)
        if library.nvmlInit_v2() != 0:
            return []
        count = ctypes.c_uint()
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        found = []
        for index in range(count.value):
            handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
            library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
            library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
            found.append((major.value, minor.value))
    except (OSError, AttributeError):
        return []
    return _visible(found)


def _visible(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of CUDA_VISIBLE_DEVICES, which lists numbers up to the first that no GPU has, or identifiers."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return found
    names = [name.strip() for name in wanted.split(",")]
    if any(name.startswith(("GPU-", "MIG-")) for name in names):
        return found
    visible = []
    for name in names:
        if not name.isdigit() or int(name) >= len(found):
            break
        visible.append(found[int(name)])
    return visible


@cache
def _build_of_torch() -> str:
    """What torch was built for, from its version: ``cpu``, ``cu126``, ``rocm6.3``; empty where the version does not say it."""
    try:
        return version("torch").partition("+")[2]
    except PackageNotFoundError:
        return ""
