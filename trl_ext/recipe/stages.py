"""Recipes in stages: what one goes on from is what another, in the same folder, trains."""

from pathlib import Path

from trl_ext import demo
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import reward as reward_folder
from trl_ext.recipe import reader
from trl_ext.recipe.settings import Settings

RUNS, REWARD = Path("runs"), "reward"
"""Where runs go, and how a recipe ends whose run directory bears its name."""


def awaited(s: Settings) -> str | None:
    """A sentence if the reward adapter is not there yet and a recipe beside this one trains it on the same base.

    `runs/NAME` is awaited if `NAME.yaml` has `trainer: reward`. Any other folder that is absent is a mistake.
    """
    run = Path(s["reward_adapter"] or "")
    recipe = s.folder / f"{run.name}.yaml"
    if run.parent != RUNS or not run.name.endswith(REWARD) or run.exists() or not recipe.is_file():
        return None
    first = reader.read(recipe).values
    base, own = base_of(s["model_name_or_path"]), base_of(first.get("model_name_or_path"))
    if first.get("trainer") != REWARD or not (base and own and reward_folder.is_same(base, own)):
        return None
    return (
        f"{s.where('reward_adapter')} is {run}, which is not there yet: train it first with `trl-ext run {recipe}`, or name "
        "another."
    )


def base_of(name: str | None) -> str | None:
    """Name or path of the model under a recipe's `model_name_or_path`: what an adapter was put on, else itself."""
    if name is None or name == demo.EMBEDDED:
        return name and str(demo.MODEL)
    return adapter_folder.base_of(Path(name).expanduser()) or name
