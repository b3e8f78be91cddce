"""Fit settings to the loss: a hyperparameter or setting that the loss does not read is a problem, not ignored."""

from typing import Any

from trl_ext import losses
from trl_ext.methods import METHODS, Method
from trl_ext.recipe import schema
from trl_ext.recipe.choice.loss import Choice, loss_title, settle_method
from trl_ext.recipe.layers.layer import Layer, Layers
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.vocabulary import hyperparameters, is_trl_default
from trl_ext.support import messages
from trl_ext.support.yaml_text import line


def fit_variants(layers: Layers, method: Method, problems: Problems) -> None:
    """Fit every variant to its own loss, whether the variant will be used or not."""
    for variant in layers.variants:
        own = Choice(variant.info.name, variant.info)
        _take_hyperparameters(variant, own, method, problems)
        _drop_unread_settings(variant, own, method, problems)


def fit_to_loss(merged: Layer, chosen: Choice | None, method: Method, problems: Problems) -> dict[str, Any]:
    """The hyperparameters in the merged settings for the chosen loss; empty for a method without a loss.

    Settings without effect are dropped: a hyperparameter that is null has the loss's own default.
    """
    if chosen is None or chosen.info is None:
        return {}
    loss_kwargs = _take_hyperparameters(merged, chosen, method, problems)
    _drop_unread_settings(merged, chosen, method, problems)
    return loss_kwargs


def note_reused_hyperparameters(merged: Layer, file: Layer, chosen: Choice | None, problems: Problems) -> None:
    """Note each hyperparameter that was written for the loss of the file and is now used for another loss."""
    if chosen is None or chosen.info is None or not chosen.in_file or chosen.loss == chosen.in_file:
        return
    defaults = {key: value for info in _parts(chosen) for key, value in info.hyperparameters.items()}
    for key, default in defaults.items():
        setting = merged.settings.get(key)
        if setting is not None and setting is file.settings.get(key):
            problems.notes.append(
                f"{setting.place} is {setting.value}. It was written for {loss_title(chosen.in_file)} and is now used for "
                f"{loss_title(chosen.loss)} (default {default}), where it may mean something else. Set the value for "
                f"{loss_title(chosen.loss)} with --{key}, or under `variants`."
            )


def _take_hyperparameters(layer: Layer, chosen: Choice, method: Method, problems: Problems) -> dict[str, Any]:
    """Hyperparameters for the loss. Those it does not read are problems, or dropped at TRL's default: a dump has them all."""
    parts = _parts(chosen)
    kinds = {key: kind for info in parts for key, kind in info.kinds.items()}
    kwargs: dict[str, Any] = {}
    known = hyperparameters()
    for key in [key for key in layer.settings if key in known]:
        value, place = layer.settings[key]
        if value is None or (key not in kinds and is_trl_default(key, value, method.name)):
            del layer.settings[key]
        elif key not in kinds:
            problems.add(place, _unread(key, value, chosen, list(kinds)))
        elif not kinds[key].accepts(value):
            problems.add(
                place, f"is {messages.shown(value)}, and {loss_title(chosen.loss)} needs {kinds[key].phrase}."
            )
        else:
            kwargs[key] = value
    by_part = layer.settings["loss_kwargs"].value if "loss_kwargs" in layer.settings else {}
    for name, values in by_part.items():
        if isinstance(chosen.loss, str) and name in (parts[0].name, *parts[0].aliases):
            kwargs |= values  # written for a mix, used for that one part
        else:
            kwargs[name] = values
    problems.add_sentences(*chosen.info.check(kwargs))
    return kwargs


def _drop_unread_settings(layer: Layer, chosen: Choice, method: Method, problems: Problems) -> None:
    """Drop settings that only losses on the other kind of data have; any but their defaults are problems."""
    if not method.is_default:
        return
    own = schema.training(settle_method(method, chosen).name)
    kinds = [kind for kind in METHODS.values() if kind.is_default]
    others = {key: field for kind in kinds for key, field in schema.training(kind.name).items() if key not in own}
    unread = others.keys() - set(hyperparameters())
    theirs, ours = ("single completions", "pairs") if chosen.info.paired else ("pairs", "single completions")
    for key in [key for key in layer.settings if key in unread]:
        value, place = layer.settings.pop(key)
        if value != others[key].default:
            problems.add(
                place,
                f"is a setting for {theirs}, and the loss {loss_title(chosen.loss)} trains on {ours}. Remove it, or move it to "
                "the `variants` of the losses that use it.",
            )


def _parts(chosen: Choice) -> list[losses.LossInfo]:
    return [losses.describe(name) for name in ([chosen.loss] if isinstance(chosen.loss, str) else chosen.loss)]


def _unread(key: str, value: Any, chosen: Choice, read: list[str]) -> str:
    reads = ", ".join(sorted(read)) or "no hyperparameters"
    readers = losses.readers(key)
    near = messages.nearest(key, read)
    meant = f"Did you mean `{near[0]}`? Otherwise remove it" if near else "Remove it"
    if chosen.in_file in readers:
        keep = f"keep it for {chosen.in_file} as {line('variants', {chosen.in_file: {key: value}})}"
    else:
        keep = f"choose a loss that reads it ({', '.join(readers)})"
    return f"is not read by the loss {loss_title(chosen.loss)}, which reads {reads}. {meant}, or {keep}."
