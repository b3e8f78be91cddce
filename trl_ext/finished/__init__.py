"""A finished run, found and loaded again: its recipe, its model as it was trained, and the prompts of its data.

`directory` knows what `trl-ext run` leaves, `opened` is a trained model in memory with what it was before, `opening` loads it.
"""

from trl_ext.finished.directory import RECIPE, began_as, check, directory_of, recipe_at, recipe_of, run_of, unfinished
from trl_ext.finished.opening import Finished, open_model, open_run, open_start

__all__ = [
    "RECIPE",
    "Finished",
    "began_as",
    "check",
    "directory_of",
    "open_model",
    "open_run",
    "open_start",
    "recipe_at",
    "recipe_of",
    "run_of",
    "unfinished",
]
