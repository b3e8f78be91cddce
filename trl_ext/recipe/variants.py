"""`variants`: settings that apply when a certain loss is chosen, so that `--loss NAME` alone is enough."""

from typing import Any

from trl_ext import losses
from trl_ext.recipe import fit
from trl_ext.recipe.choice import SPELLINGS, Choice
from trl_ext.recipe.normalise import known, typed
from trl_ext.recipe.settings import Layer, Setting, from_file
from trl_ext.recipe.vocabulary import hyperparameters
from trl_ext.support import messages


def read(
    variants: Any, lines: dict[tuple[str, ...], int], problems: list[str], trainer: str | None = None
) -> dict[str, Layer]:
    """All variants by canonical name, judged whether or not they will be used.

    Args:
        trainer: The recipe's, if it names one that trains a loss.
    """
    if not isinstance(variants, dict):
        problems.append("`variants` is not a mapping: write `variants: {ipo: {beta: 0.1}}`, for instance.")
        return {}
    found: dict[str, Layer] = {}
    for key, values in variants.items():
        name = str(key)
        where = f"`variants.{messages.shown_text(name)}`"
        try:
            info = losses.describe(name)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if values is not None and not isinstance(values, dict):
            problems.append(f"{where} is {messages.shown(values)}: write `{name}: {{beta: 0.1}}`, for instance.")
            continue
        if info.name in found:
            problems.append(f"{where} is the loss {info.name}, which has a variant already: keep one of them.")
        layer = known(from_file(values or {}, lines, ("variants", name)), problems, trainer or "paired")
        for key in [key for key in (*SPELLINGS, "variants") if key in layer]:
            problems.append(f"{layer.pop(key).where} cannot be set by a variant: remove it.")
        layer = typed(layer, trainer or ("paired" if info.paired else "unpaired"), problems)
        choice = Choice(info.name, where, info)
        fit.loss_kwargs(layer, choice, problems)
        if trainer is None:
            fit.foreign(layer, choice, problems)
        found[info.name] = layer
    return found


def of(chosen: Choice, variants: dict[str, Layer], written: Layer, flags: Layer) -> Layer:
    """The layer that the chosen loss's variant puts between the file and the flags.

    In a mix every part takes the hyperparameters of its own variant, under its own name in `loss_kwargs`; the
    other settings (a learning rate, say) come from the variant of the first part that has one.
    """
    if not isinstance(chosen.loss, dict):
        return variants.get(chosen.loss, {})
    others: Layer = {}
    for_parts: dict[str, dict[str, Any]] = {}
    for name in chosen.loss:
        layer = variants.get(name, {})
        for_parts[name] = {key: setting.value for key, setting in layer.items() if key in hyperparameters()}
        others = others or {key: setting for key, setting in layer.items() if key not in hyperparameters()}
    for layer in (written, flags):
        for name, values in layer.get("loss_kwargs", Setting({}, "")).value.items():
            for_parts.setdefault(name, {})
            for_parts[name] |= values
        if layer is written:
            # A flag is for every part that reads it, whatever the file says for one of them.
            for_parts = {
                name: {key: value for key, value in values.items() if key not in flags}
                for name, values in for_parts.items()
            }
    flags.pop("loss_kwargs", None)
    for_parts = {name: values for name, values in for_parts.items() if values}
    return others | ({"loss_kwargs": Setting(for_parts, "`loss_kwargs`")} if for_parts else {})
