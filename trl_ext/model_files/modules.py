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


FUSED = ("gate_up_proj", "up_proj", "down_proj", "gate_up_proj_bias", "up_proj_bias", "down_proj_bias")
"""Last names that transformers gives the parameters of experts, whatever they are called in the files."""


def last_names_of_a_mixture(folder: Path) -> set[str]:
    """Last names of all parameters of a mixture of experts; empty if the files have no experts, or do not tell.

    transformers renames modules of mixtures, but only the parameters of experts.
    """
    found = _read(folder)
    return {name.rpartition(".")[2] for name in found} | {*FUSED} if any("expert" in name for name in found) else set()


def is_embedding(module: str) -> bool:
    """Whether a module is an embedding matrix, judged by its name."""
    return any(part in module for part in NOT_LINEAR)


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """The headers' entries (`shape`, `dtype`) by name; empty if transformers may rename the parameters."""
    found = _read(folder)
    if any(part in name for name in found for part in ("expert", "vision", "visual", "audio")):
        return {}
    return found


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name == WEIGHTS:  # of an adapter that is saved beside its base
            continue
        try:
            found |= header(file).tensors
        except (OSError, ValueError, LookupError):  # which `model_files.model` reports
            return {}
    return found
