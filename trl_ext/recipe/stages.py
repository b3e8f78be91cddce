"""Recognise a recipe that continues from the run of another recipe in the same folder."""

from pathlib import Path

from trl_ext.methods import METHODS
from trl_ext.model_files import reward as reward_folder
from trl_ext.model_files.adapter import base_name
from trl_ext.recipe import names, reader
from trl_ext.recipe.settings import Settings

RUNS, REWARD = Path("runs"), "reward"
"""The folder of runs, and the ending of names of recipes that train a reward model."""


def awaited(s: Settings) -> str | None:
    """A sentence if the reward adapter does not exist yet and a recipe beside this one trains it on the same base.

    `runs/NAME` is awaited if `NAME.yaml` has `trainer: reward`. Any other missing folder is a problem.
    """
    run = Path(s["reward_adapter"] or "")
    recipe = s.folder / f"{run.name}.yaml"
    if run.parent != RUNS or not run.name.endswith(REWARD) or run.exists() or not recipe.is_file():
        return None
    first = reader.read(recipe).values
    base, own = base_name(s["model_name_or_path"]), base_name(first.get("model_name_or_path"))
    method = METHODS.get(str(first.get("trainer")))
    trains_rewards = method is not None and method.trains_scores
    if not trains_rewards or not (base and own and reward_folder.is_same(base, own)):
        return None
    return (
        f"{s.where('reward_adapter')} is {run}, which does not exist yet: train it first with `trl-ext run {names.word(recipe)}`, or "
        "name another."
    )
