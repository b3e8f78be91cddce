"""List the modules of a model in a local folder by the names of its weights."""

from pathlib import Path
from typing import Any

from trl_ext.model_files.adapter import WEIGHTS
from trl_ext.model_files.weights import header

NOT_LINEAR = ("embed", "wte", "wpe")
"""Parts of the names of embedding matrices."""


def names(folder: Path) -> tuple[list[str], list[str]]:
    """Full names of all modules that have weights, and the last names of the linear layers except the head.

    Empty if the files do not tell: there are no safetensors files, or transformers renames the modules, as it may for
    experts and for towers other than text.
    """
    found = tensors(folder)
    modules = sorted({name.rpartition(".")[0] for name in found})
    linear = {
        module.rpartition(".")[2]
        for module in modules
        if len(found.get(f"{module}.weight", {}).get("shape", [])) == 2 and not is_embedding(module)
    }
    return modules, sorted(linear - {"lm_head", "score"})


def parameters(folder: Path) -> list[str]:
    """Full names of all parameters in the files; empty if the files do not tell."""
    return sorted(tensors(folder))


def is_embedding(module: str) -> bool:
    """Whether a module is an embedding matrix, judged by its name."""
    return any(part in module for part in NOT_LINEAR)


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """The headers' entries (`shape`, `dtype`) by name; empty if transformers may rename the parameters."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name == WEIGHTS:  # of an adapter that is saved beside its base
            continue
        try:
            found |= header(file).tensors
        except (OSError, ValueError, LookupError):  # which `model_files.model` reports
            return {}
    if any(part in name for name in found for part in ("expert", "vision", "visual", "audio")):
        return {}
    return found
