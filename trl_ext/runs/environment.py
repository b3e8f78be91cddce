"""Describe the machine and the package versions of a run, for `environment.json`."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = (
    "trl-ext", "trl", "transformers", "torch", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers",
    "numpy", "triton",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """Return versions, platform and devices. Nothing in it identifies a person or holds a secret."""
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append({"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 2)})
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "devices": devices,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
