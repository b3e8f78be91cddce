"""Set the environment variables of the libraries a run uses, before they are imported."""

import os
import platform
import re
import sys

from trl_ext.recipe import Recipe
from trl_ext.support import quiet

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Variables with the settings of PyTorch's allocator: the present name, and two older ones."""


def configure(recipe: Recipe) -> None:
    """Set the variables of the recipe's `env`, and defaults that save GPU memory and reduce logging."""
    for name, value in recipe.sections()["env"].items():
        os.environ[name] = value
    if not recipe.get("use_vllm"):  # vLLM's own allocator refuses them
        expand_segments()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # its exceptions repeat what it logs
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait take the cores from other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet.hide_progress_off_terminals()
    quiet.hide_bars_of_datasets()


def expand_segments() -> None:
    """Let PyTorch's allocator expand its segments, unless the user chose its settings or the system cannot map GPU memory.

    The rows of a step have different lengths, so tensors have different sizes. Segments of fixed sizes would leave much memory
    in pieces that are too small for the next row.
    """
    can_map = sys.platform == "linux" and not re.search("microsoft|tegra", platform.release(), re.IGNORECASE)
    if can_map and not any(name in os.environ for name in ALLOCATOR):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
