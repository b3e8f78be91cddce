"""Check that the recipe is valid and that it fits this computer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trl_ext.doctor import gpu
from trl_ext.doctor.finding import Finding, fails, passed, warns
from trl_ext.model_files import local
from trl_ext.support.errors import UserError


def read(path: str, overrides: dict[str, Any]) -> tuple[Any, list[Finding]]:
    """The recipe, or `None` if it is invalid, and one finding per problem."""
    from trl_ext import recipe

    try:
        loaded = recipe.load(path, overrides)
    except UserError as error:
        return None, [
            fails("recipe", problem, f"Fix it, then check the recipe with `trl-ext validate {path}`.")
            for problem in error.problems
        ]
    return loaded, [passed("recipe", f"{path} is valid: {loaded.title} on {_model(loaded)}")]


def plan(recipe: Any) -> tuple[Any, list[Finding]]:
    """The plan for this GPU, or for main memory without one, as a run makes it; `None` if it cannot be made."""
    from trl_ext import planner
    from trl_ext.planner.models import MODELS
    from trl_ext.runs import memory_check

    name = _model(recipe)
    if name not in MODELS and local.folder(name, recipe.get("model_revision")) is None:
        return None, [
            warns(
                "plan",
                f"the config.json of {name} is not on this computer",
                f"`trl-ext plan {recipe.word}` downloads it.",
            )
        ]
    here = memory_check.machine(recipe)
    try:
        planned = planner.plan(recipe if here.is_cuda else memory_check.in_float32(recipe), vram=here.total / gpu.GIB)
    except UserError as error:  # a model the planner does not know may train all the same
        return None, [warns("plan", str(error), "Memory cannot be predicted; try the run.")]
    return planned, list(verdict(planned, here.name))


def verdict(planned: Any, where: str) -> Iterator[Finding]:
    """One finding on whether the plan fits."""
    text = f"peak memory {planned.peak / gpu.GIB:.1f} GiB; {where} has {planned.vram:.1f} GiB"
    if planned.fits:
        yield passed("plan", text)
    elif planned.is_tight:
        yield warns(
            "plan",
            f"{text}, which is enough only if nothing else uses it",
            "End other programs, and use no display on this card.",
        )
    else:
        remedy = f"Add {' '.join(planned.flags)}" if planned.flags_suffice else "Choose a smaller model."
        yield fails("plan", f"{text}, of which {planned.budget:.1f} GiB can be used", remedy)


def _model(recipe: Any) -> str:
    return recipe.effective("model_name_or_path")
