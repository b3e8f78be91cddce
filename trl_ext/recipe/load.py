"""From a file and flags to one `Recipe`: merge, name every mistake, and only then hand it on."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext.data.peek import peek
from trl_ext.errors import UserError
from trl_ext.recipe import checks, fit, reader, variants
from trl_ext.recipe.choice import choose
from trl_ext.recipe.normalise import known, meant, typed
from trl_ext.recipe.resolved import Recipe
from trl_ext.recipe.settings import Layer, Settings, from_file, from_flags
from trl_ext.recipe.vocabulary import defaults, exclusive


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and judge all that can be judged without weights or data.

    Later layers win: the file, the variant of the chosen loss, the overrides. The loss is chosen first.

    Args:
        path: A YAML file of flat keys.
        overrides: Values by key, as flags give them.

    Raises:
        UserError: With every problem found, not only the first.
    """
    document = reader.read(path)
    problems, notes = list(document.problems), []
    by_loss = variants.read(document.values.pop("variants", None) or {}, document.lines, problems)
    written = known(from_file(document.values, document.lines), problems)
    flags = known(from_flags(dict(overrides or {})), problems)
    if flags.pop("variants", None):
        problems.append("`--variants` cannot be a flag: a flag wins over every variant, so give the keys themselves.")

    chosen, alone = choose(written, flags, problems, notes)
    paired = chosen.info.paired if chosen.info else None
    written, flags = typed(written, paired, problems), typed(flags, paired, problems)
    merged = _over(_over(written, variants.of(chosen, by_loss, written, flags)), flags)

    kwargs: dict[str, Any] = {}
    if chosen.info:
        kwargs = fit.loss_kwargs(merged, chosen, problems, alone)
        fit.foreign(merged, chosen, problems)
        fit.unmoved(merged, chosen, problems)
        notes += fit.inherited(merged, written, chosen, alone)
    settings = Settings(merged, defaults(paired), meant([*document.values, *(overrides or {})]))
    problems += checks.check(settings)
    problems += _first_look(settings, paired)
    notes += checks.notes(settings)
    if problems:
        # What is wrong in the chosen loss's variant is found twice: in the variant and after merging.
        raise UserError(sorted(dict.fromkeys(problems), key=_line), about=str(path))
    values = {"loss": chosen.loss} | {key: setting.value for key, setting in merged.items()}
    explicit = set(merged) | ({"loss"} if chosen.is_stated else set())
    return Recipe(Path(path), values, explicit, chosen.loss, kwargs, notes)


def _line(problem: str) -> float:
    """The first line a sentence names; what names none comes last."""
    found = re.search(r"\blines? (\d+)", problem)
    return int(found[1]) if found else math.inf


def _over(lower: Layer, upper: Layer) -> Layer:
    """The upper layer's settings over the lower's; of hyperparameters excluding each other, the upper one."""
    gone = {other for group in exclusive() if set(group) & set(upper) for other in group}
    return {key: setting for key, setting in lower.items() if key not in gone} | upper


def _first_look(settings: Settings, paired: bool | None) -> list[str]:
    """What the first rows of a local file already tell: columns that are not there, or the wrong kind of data."""
    name = settings["dataset_name"]
    if not isinstance(name, str) or settings["datasets"]:
        return []
    try:
        match = peek(name, settings["dataset_columns"], settings["dataset_format"] or "auto")
    except UserError as error:
        return error.problems
    if match is None or match.paired or paired is not True:
        return []
    return [
        f"{settings.where('dataset_name')} is {name}, which holds single answers with a label, and the loss compares "
        "pairs: choose a loss for labelled answers (`--loss kto`), or data with chosen and rejected."
    ]
