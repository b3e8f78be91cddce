"""Set the environment variables of the libraries a run uses, before they are imported."""

import os

from trl_ext.recipe import Recipe
from trl_ext.support import quiet


def configure(recipe: Recipe) -> None:
    """Set the variables of the recipe's `env`, and defaults that reduce logging."""
    for name, value in recipe.sections()["env"].items():
        os.environ[name] = value
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # its exceptions repeat what it logs
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait take the cores from other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet.hide_progress_off_terminals()
    quiet.hide_bars_of_datasets()
