"""Read `variants`: settings that apply when a certain loss is chosen, so that `--loss NAME` alone is enough."""

from typing import Any

from trl_ext import losses
from trl_ext.methods import Method
from trl_ext.recipe.layers.layer import Layers, Lines, Variant, from_file
from trl_ext.recipe.problems import Problems
from trl_ext.support import messages


def read_variants(layers: Layers, lines: Lines, method: Method, problems: Problems) -> None:
    """Move `variants` from the file's layer to layers of their own, whether they will be used or not."""
    given = layers.file.settings.pop("variants", None)
    if given is None or not given.value:
        return
    if not method.has_loss:
        problems.add_sentences(
            f"`variants` are settings for losses, and `trainer: {method.name}` trains without a loss. Remove `variants`."
        )
    elif not isinstance(given.value, dict):
        problems.add_sentences(
            "`variants` is not a mapping from losses to settings. Write, for instance, `variants: {ipo: {beta: 0.1}}`."
        )
    else:
        for name, values in given.value.items():
            _read_variant(str(name), values, layers, lines, problems)


def _read_variant(name: str, values: Any, layers: Layers, lines: Lines, problems: Problems) -> None:
    where = f"`variants.{messages.shown_text(name)}`"
    try:
        info = losses.describe(name)
    except ValueError as error:
        problems.add_sentences(f"{where}: {error}")
        return
    if values is not None and not isinstance(values, dict):
        problems.add_sentences(f"{where} is {messages.shown(values)}. Write, for instance, `{name}: {{beta: 0.1}}`.")
        return
    if any(info.name == variant.info.name for variant in layers.variants):
        problems.add_sentences(f"{where} is the loss {info.name}, which already has a variant. Keep one of them.")
    layers.variants.append(Variant(from_file(values or {}, lines, ("variants", name)), info=info))
