"""Draw the curves of a run from what it has logged so far."""

from __future__ import annotations

import math
from pathlib import Path

from trl_ext import losses
from trl_ext.recipe import Recipe
from trl_ext.report import curves
from trl_ext.report.curves import Start


def draw_curves(recipe: Recipe, directory: Path) -> Path:
    """Draw what a run has logged so far. Returns the picture."""
    title = f"{recipe.name}: {recipe.title} on {recipe.get('dataset_name') or 'a mixture'}"
    large, start = recipe.method.large_panels, first_loss(recipe)
    return curves.draw(directory / "metrics.jsonl", directory / "curves.png", title, large, start)


def first_loss(recipe: Recipe) -> Start | None:
    """The loss before the first update, where it does not depend on the data."""
    if recipe.method.trains_scores:
        return Start(math.log(2), "equal rewards")
    if recipe.loss is None:
        return None
    value = losses.get(recipe.loss, **recipe.loss_kwargs).initial_value
    return None if value is None else Start(value, "policy = reference")
