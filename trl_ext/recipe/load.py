"""From a file and flags to one `Recipe`: merge, name every mistake, and only then hand it on."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext import checks, methods
from trl_ext.data.files.problems import find_problem
from trl_ext.data.formats import CHOICES
from trl_ext.data.recognise_file import recognise_file
from trl_ext.recipe import fit, mixture, reader, stages, trainer, variants
from trl_ext.recipe.choice import Choice, choose
from trl_ext.recipe.normalise import known, meant, typed
from trl_ext.recipe.resolved import Recipe
from trl_ext.recipe.settings import Layer, Settings, from_file, from_flags
from trl_ext.recipe.vocabulary import WITH_LOSS, exclusive
from trl_ext.support.errors import UserError


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
    keys = [*document.values, *(overrides or {})]
    by_loss = document.values.pop("variants", None) or {}
    written, flags = from_file(document.values, document.lines), from_flags(dict(overrides or {}))
    named = trainer.choose(written, flags, problems)
    if named is None or named in WITH_LOSS:
        by_name = variants.read(by_loss, document.lines, problems, named)
        merged, chosen, kwargs = _by_loss(written, flags, by_name, problems, notes, named)
        kind = named or ("unpaired" if chosen.info and not chosen.info.paired else "paired")
    else:
        if by_loss:
            problems.append(f"`variants` apply to losses, and `trainer: {named}` has none: remove them.")
        merged, chosen, kwargs, kind = _by_trainer(written, flags, named, problems), None, {}, named
    # What was given and is of no use was said to be so, and is not missing as well.
    reported = meant(keys, kind) | ({*keys} - {*merged})
    settings = Settings(merged, methods.METHODS[kind], chosen and chosen.info, reported, Path(path).parent)
    if awaits := stages.awaited(settings):
        reported.add("reward_adapter")
    problems += mixture.problems(settings["datasets"], settings.where("datasets")) if settings["datasets"] else []
    problems += checks.check(settings)
    problems += _first_look(settings, kind if chosen is None or chosen.info else "unpaired")
    notes += [*checks.notes(settings), *([awaits] if awaits else [])]
    if problems:
        # What is wrong in the chosen loss's variant is found twice: in the variant and after merging.
        raise UserError(sorted(dict.fromkeys(problems), key=_line), about=str(path))
    values = {key: setting.value for key, setting in merged.items()}
    if chosen is None:
        return Recipe(Path(path), {"trainer": named} | values, {"trainer", *merged}, None, {}, notes, awaits)
    explicit = set(merged) | ({"loss"} if chosen.is_stated else set()) | ({"trainer"} if named else set())
    what = ({"trainer": named} if named else {}) | {"loss": chosen.loss}
    return Recipe(Path(path), what | values, explicit, chosen.loss, kwargs, notes, awaits)


def _by_trainer(written: Layer, flags: Layer, kind: str, problems: list[str]) -> Layer:
    """The settings of a recipe that names a `trainer`: flags over the file."""
    written, flags = (typed(known(layer, problems, kind), kind, problems) for layer in (written, flags))
    return written | flags


def _by_loss(
    written: Layer,
    flags: Layer,
    by_loss: dict[str, Layer],
    problems: list[str],
    notes: list[str],
    named: str | None,
) -> tuple[Layer, Choice, dict[str, Any]]:
    """The settings of a recipe that trains a loss, with or without a `trainer`; the loss, and its hyperparameters."""
    written, flags = known(written, problems, named or "paired"), known(flags, problems, named or "paired")
    if flags.pop("variants", None):
        problems.append("`--variants` cannot be a flag: a flag wins over every variant, so give the keys themselves.")
    chosen, alone = choose(written, flags, problems, notes)
    kind = named or ("unpaired" if chosen.info and not chosen.info.paired else "paired")
    written, flags = typed(written, kind, problems), typed(flags, kind, problems)
    merged = _over(_over(written, variants.of(chosen, by_loss, written, flags)), flags)
    if not chosen.info:
        return merged, chosen, {}
    kwargs = fit.loss_kwargs(merged, chosen, problems, alone)
    if named is None:
        fit.foreign(merged, chosen, problems)
    notes += fit.inherited(merged, written, chosen, alone)
    return merged, chosen, kwargs


def _line(problem: str) -> float:
    """The first line a sentence names; what names none comes last."""
    found = re.search(r"\blines? (\d+)", problem)
    return int(found[1]) if found else math.inf


def _over(lower: Layer, upper: Layer) -> Layer:
    """The upper layer's settings over the lower's; of hyperparameters excluding each other, the upper one."""
    gone = {other for group in exclusive() if set(group) & set(upper) for other in group}
    return {key: setting for key, setting in lower.items() if key not in gone} | upper


def _first_look(settings: Settings, kind: str) -> list[str]:
    """What a look at a local file already tells: it is broken, columns are not there, or it is the wrong kind of data."""
    name = settings["dataset_name"]
    if not isinstance(name, str) or settings["datasets"]:
        return []
    if settings["dataset_format"] not in (None, *CHOICES):  # which a check says
        return []
    if (problem := find_problem(Path(name))) is not None:
        return [f"{settings.where('dataset_name')} is {name}, which cannot be read: {problem}"]
    try:
        match = recognise_file(name, settings["dataset_columns"], settings["dataset_format"] or "auto")
    except UserError as error:
        # Prompts alone, or answers without a verdict, are what these train on; loading tells the rest.
        return [] if kind in ("ppo", "online", "sft") else error.problems
    if match is None or match.paired or kind not in ("paired", "reward"):
        return []
    what = "the loss" if kind == "paired" else "a reward model"
    remedy = "choose a loss for labelled answers (`--loss kto`), or data" if kind == "paired" else "choose data"
    return [
        f"{settings.where('dataset_name')} is {name}, which holds single answers with a label, and {what} compares "
        f"pairs: {remedy} with chosen and rejected."
    ]
