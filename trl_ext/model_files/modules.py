"""List the modules of a model in a local folder by the names of its weights.

A folder in the cache of the Hub may hold no weights, or some of them. Then the index of the weights, if it is there, has the names.
"""

import json
from pathlib import Path
from typing import Any

from trl_ext.model_files import quantised
from trl_ext.model_files.adapter import WEIGHTS
from trl_ext.model_files.weights import header

NOT_LINEAR = ("embed", "wte", "wpe")
"""Parts of the names of embedding matrices."""


def names(folder: Path) -> tuple[list[str], list[str]]:
    """Full names of all modules that have weights, and the last names of the linear layers except the head.

    Empty if the files do not tell: there are no safetensors files, or only some of them, or transformers renames the modules, as
    it may for experts and for towers other than text.
    """
    found = tensors(folder)
    if not all(found.values()):
        return [], []
    modules = sorted({name.rpartition(".")[0] for name in found})
    linear = {
        module.rpartition(".")[2]
        for module in modules
        if not is_embedding(module)
        and any(len(found.get(f"{module}.{name}", {}).get("shape", [])) == 2 for name in MATRICES)
    }
    return modules, sorted(linear - {"lm_head", "score"})


def parameters(folder: Path) -> list[str]:
    """Full names of all parameters in the files; empty if the files do not tell."""
    return sorted(tensors(folder))


def names_in_files(folder: Path) -> list[str]:
    """Full names of all tensors as the files have them, also of those that transformers renames."""
    return sorted(_read(folder))


INDEX = "model.safetensors.index.json"
MATRICES = ("weight", "qweight", "weight_packed")
"""What checkpoints call the weight of a linear layer: as it is, by GPTQ and AWQ, and by compressed-tensors."""
FUSED = ("gate_up_proj", "up_proj", "down_proj", "gate_up_proj_bias", "up_proj_bias", "down_proj_bias")
"""Last names that transformers gives the parameters of experts, whatever they are called in the files."""


def last_names_of_a_mixture(folder: Path) -> set[str]:
    """Last names of all parameters of a mixture of experts; empty if the files have no experts, or do not tell.

    transformers renames modules of mixtures, but only the parameters of experts.
    """
    found = _read(folder)
    return {name.rpartition(".")[2] for name in found} | {*FUSED} if any("expert" in name for name in found) else set()


def names_of_experts(folder: Path) -> set[str]:
    """Names of the parameters of experts in transformers' models; empty if config.json mentions no experts."""
    return {*FUSED, "gate_proj"} if quantised.has_experts(quantised.config_in(folder)) else set()


def is_embedding(module: str) -> bool:
    """Whether a module is an embedding matrix, judged by its name."""
    return any(part in module for part in NOT_LINEAR)


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """The headers' entries (`shape`, `dtype`) by name; empty if transformers may rename the parameters.

    The entry of a tensor is empty if the index names it and its file is not there.
    """
    found = _read(folder)
    if any(part in name for name in found for part in ("expert", "vision", "visual", "audio")):
        return {}
    return found


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    files = [
        path for path in sorted(folder.glob("*.safetensors")) if path.name != WEIGHTS
    ]  # of an adapter beside its base
    found: dict[str, dict[str, Any]] = {name: {} for name in _index(folder)}
    if not found and any("-of-" in file.name for file in files):
        return {}
    try:
        for file in files:
            found |= header(file).tensors
    except (OSError, ValueError, LookupError):  # which `model_files.model` reports
        return {}
    return found


def _index(folder: Path) -> list[str]:
    """Names of the tensors in the index of weights that are in several files; empty without one."""
    try:
        return list(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, LookupError, TypeError):
        return []
