"""The recipe of one round: that of the user, on the data of the round, from the adapter of the last round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl_ext.model_files import adapter
from trl_ext.recipe import Recipe, load, reader, schema
from trl_ext.runs.recorded import without_location
from trl_ext.support import atomic

OF_EVALUATION = ("per_device_eval_batch_size", "load_best_model_at_end", "metric_for_best_model", "greater_is_better")
BASE, LAST = "base", "last"
"""References of the training in a round."""
NAMES = {BASE: "base", LAST: "start"}
"""What a recipe calls them."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """The user's settings that every round trains with: all but those of the data, of evaluation and of the run's place."""
    data = schema.data().keys() - {"apply_chat_template"}
    return {
        key: value
        for key, value in without_location(recipe).values.items()
        if key not in data and not key.startswith("eval") and key not in OF_EVALUATION
    }


def left_out(recipe: Recipe) -> list[str]:
    """Settings of evaluation that were set, and that a round's training does not read."""
    return sorted(
        key
        for key in recipe.explicit
        if ((key.startswith("eval_") and key != "eval_size") or key in OF_EVALUATION)
        and recipe.values.get(key) is not None
    )


def evaluation(recipe: Recipe) -> dict[str, Any] | None:
    """The recipe's `evaluation` for a round, whose own data has no held-out rows: on the recipe's data unless it names other."""
    entries = without_location(recipe).evaluation
    if entries is None or {"prompts", "dataset"} & entries.keys() or not recipe.get("dataset_name"):
        return entries
    name = without_location(recipe).get("dataset_name")
    columns = recipe.get("dataset_columns")
    return {**entries, "dataset": name} | ({"dataset_columns": columns} if columns else {})


def write(recipe: Recipe, path: Path, data: Path, model: str, reference: str) -> Recipe:
    """Write and load the recipe of a round.

    Args:
        recipe: The user's.
        path: Of the new file.
        data: Of the round.
        model: Model or adapter that the round starts from.
        reference: `BASE` or `LAST`.
    """
    values = settings(recipe) | {"model_name_or_path": model, "dataset_name": str(data.resolve())}
    if adapter.is_in(Path(model).expanduser()) and recipe.info.needs_reference:
        values["reference"] = NAMES[reference]
    if (entries := evaluation(recipe)) is not None:
        values["evaluation"] = entries
    title = f"# One round of {recipe.name}: on completions of the model that it starts from.\n"
    atomic.write_text(path, title + reader.write(values))
    return load(path, to_train=True)
