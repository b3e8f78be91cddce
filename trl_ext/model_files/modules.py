"""The modules of a model in a local folder, told by the names of its weights."""

from pathlib import Path

from trl_ext.model_files.weights import header

NOT_LINEAR = ("embed", "wte", "wpe")
"""Parts of names of matrices that are looked up, not multiplied with."""


def names(folder: Path) -> tuple[list[str], list[str]]:
    """Full names of all modules that have weights, and the last names of the linear layers but the head.

    Nothing where the files do not tell: none are safetensors, or transformers gives the modules other names than the
    files, as it may where there are experts or other towers than of text.
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
    """Full names of all parameters in the files. Nothing where the files do not tell."""
    return sorted(_tensors(folder))


def _tensors(folder: Path) -> dict[str, int]:
    """Numbers of dimensions by name; none where transformers may give the parameters other names."""
    tensors: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors |= {name: len(entry["shape"]) for name, entry in header(file).tensors.items()}
        except (OSError, ValueError, LookupError):  # which `model_files.model` says
            return {}
    if any(part in name for name in tensors for part in ("expert", "vision", "visual", "audio")):
        return {}
    return tensors
