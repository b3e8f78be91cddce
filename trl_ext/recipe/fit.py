"""Whether settings fit the loss: what it does not read is a mistake, not ignored."""

from typing import Any

from trl_ext import losses
from trl_ext.recipe import schema
from trl_ext.recipe.choice import Choice, text
from trl_ext.recipe.renamed_keys import line
from trl_ext.recipe.settings import Layer
from trl_ext.recipe.vocabulary import hyperparameters
from trl_ext.support import messages


def loss_kwargs(layer: Layer, chosen: Choice, problems: list[str], alone: Choice | None = None) -> dict[str, Any]:
    """The hyperparameters here that the loss reads; null means the loss's own default and is removed.

    `alone` is the loss the file asks for without flags, to which an unread hyperparameter may belong.
    """
    parts = _parts(chosen)
    kinds = {key: kind for info in parts for key, kind in info.kinds.items()}
    kwargs: dict[str, Any] = {}
    for key in [key for key in layer if key in hyperparameters()]:
        value, where = layer[key]
        if value is None:
            del layer[key]
        elif key not in kinds:
            problems.append(f"{where} {_unread(key, value, chosen, list(kinds), alone)}")
        elif not kinds[key].accepts(value):
            problems.append(f"{where} is {value!r}, and {text(chosen.loss)} needs {kinds[key].phrase}.")
        else:
            kwargs[key] = value
    for name, values in (layer["loss_kwargs"].value if "loss_kwargs" in layer else {}).items():
        if isinstance(chosen.loss, str) and name in (parts[0].name, *parts[0].aliases):
            kwargs |= values  # written for a mix, used for that one part
        else:
            kwargs[name] = values
    problems += chosen.info.check(kwargs)
    return kwargs


def foreign(layer: Layer, chosen: Choice, problems: list[str]) -> None:
    """Remove what only the other trainer has: at its default a setting says nothing, else it is a mistake."""
    own, other = (schema.training(kind) for kind in _kinds(chosen.info.paired))
    theirs, ours = ("single completions", "pairs") if chosen.info.paired else ("pairs", "single completions")
    for key in [key for key in layer if key in other and key not in own and key not in hyperparameters()]:
        value, where = layer.pop(key)
        if value != other[key].default:
            problems.append(
                f"{where} is a setting for {theirs}, and the loss {text(chosen.loss)} trains on {ours}: "
                "remove it, or keep it for other losses under `variants`."
            )


def inherited(merged: Layer, written: Layer, chosen: Choice, alone: Choice) -> list[str]:
    """A note for each hyperparameter that was written for one loss and is now used for another."""
    if chosen.loss == alone.loss or alone.info is None:
        return []
    read = {key: value for info in _parts(chosen) for key, value in info.hyperparameters.items()}
    return [
        f"{merged[key].where} is {merged[key].value}, written for {text(alone.loss)} and now used for "
        f"{text(chosen.loss)} (default {default}), where it may mean something else: give it its own value "
        f"with --{key}, or under `variants`."
        for key, default in read.items()
        if key in merged and merged[key] is written.get(key)
    ]


def _kinds(paired: bool) -> tuple[str, str]:
    """The kind of training that reads pairs or single completions, and the other one."""
    return ("paired", "unpaired") if paired else ("unpaired", "paired")


def _parts(chosen: Choice) -> list[losses.LossInfo]:
    return [losses.describe(name) for name in ([chosen.loss] if isinstance(chosen.loss, str) else chosen.loss)]


def _unread(key: str, value: Any, chosen: Choice, read: list[str], alone: Choice | None) -> str:
    reads = ", ".join(sorted(read)) or "no hyperparameters"
    readers = losses.readers(key)
    near = messages.nearest(key, read)
    meant = f"did you mean `{near[0]}`? Else " if near else ""
    if alone is not None and alone.loss in readers:
        keep = f"keep it for {alone.loss} as {line('variants', {alone.loss: {key: value}})}"
    else:
        keep = f"choose a loss that reads it ({', '.join(readers)})"
    return f"is not read by the loss {text(chosen.loss)}, which reads {reads}: {meant}remove it, or {keep}."
