"""List the modules of a model in a local folder by the names of its weights."""

from pathlib import Path

from trl_ext.model_files.weights import header

NOT_LINEAR = ("embed", "wte", "wpe")
"""Parts of the names of embedding matrices."""


def names(folder: Path) -> tuple[list[str], list[str]]:
    """Full names of all modules that have weights, and the last names of the linear layers except the head.

    Empty if the files do not tell: there are no safetensors files, or transformers renames the modules, as it may for
    experts and for towers other than text.
    """
    tensors = _tensors(folder)
    modules = sorted({name.rpartition(".")[0] for name in tensors})
    linear = {
        module.rpartition(".")[2]
        for module in modules
        if tensors.get(f"{module}.weight") == 2 and not any(part in module for part in NOT_LINEAR)
    }
    return modules, sorted(linear - {"lm_head", "score"})


def parameters(folder: Path) -> list[str]:
    """Full names of all parameters in the files; empty if the files do not tell."""
    return sorted(_tensors(folder))


def _tensors(folder: Path) -> dict[str, int]:
    """Numbers of dimensions by name; empty if transformers may rename the parameters."""
    tensors: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= {name: len(entry["shape"]) for name, entry in header(file).tensors.items()}
        except (OSError, ValueError, LookupError):  # which `model_files.model` reports
            return {}
    if any(part in name for name in tensors for part in ("expert", "vision", "visual", "audio")):
        return {}
    return tensors
