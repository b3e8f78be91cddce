"""The recipe itself: is it in order, and does it fit the card that is here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trl_ext.doctor import gpu, model
from trl_ext.doctor.finding import Finding, fails, passed, warns
from trl_ext.support.errors import UserError


def read(path: str, overrides: dict[str, Any]) -> tuple[Any, list[Finding]]:
    """The recipe, `None` if it is not in order, and a line for each thing that is wrong with it."""
    from trl_ext import recipe

    try:
        loaded = recipe.load(path, overrides)
    except UserError as error:
        return None, [
            fails("recipe", problem, f"`trl-ext validate {path}` checks it again.") for problem in error.problems
        ]
    return loaded, [passed("recipe", f"{path} is in order: {loaded.title} on {_model(loaded)}")]


def plan(recipe: Any) -> tuple[Any, list[Finding]]:
    """The plan for the card here, or for the main memory where there is none, as a run makes it; `None` if there is none."""
    from trl_ext import planner
    from trl_ext.planner.models import MODELS
    from trl_ext.runs import memory_check

    name = _model(recipe)
    if name not in MODELS and model.local(name, recipe.get("model_revision")) is None:
        return None, [
            warns("plan", f"the config.json of {name} is not here", f"`trl-ext plan {recipe.path}` fetches it.")
        ]
    here = memory_check.machine(recipe)
    try:
        planned = planner.plan(recipe if here.is_cuda else memory_check.in_float32(recipe), vram=here.total / gpu.GIB)
    except UserError as error:  # a model that cannot be counted may train all the same
        return None, [warns("plan", str(error), "run it: only trying tells.")]
    return planned, list(verdict(planned, here.name))


def verdict(planned: Any, where: str) -> Iterator[Finding]:
    """Whether it fits, in a line."""
    text = f"{planned.peak / gpu.GIB:.1f} GiB at the peak; {where} has {planned.vram:.1f}"
    if planned.fits:
        yield passed("plan", text)
    elif planned.is_tight:
        yield warns(
            "plan",
            f"{text}, which is enough if nothing else uses it",
            "end other programs, and use no display on this card.",
        )
    else:
        remedy = f"add {' '.join(planned.flags)}" if planned.flags_suffice else "choose a smaller model."
        yield fails("plan", f"{text}, of which {planned.budget:.1f} can be used", remedy)


def _model(recipe: Any) -> str:
    return recipe.effective("model_name_or_path")
