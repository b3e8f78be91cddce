"""Merge the layers of a recipe: file, then the variant of the chosen loss, then flags."""

from typing import Any

from trl_ext.recipe.choice.loss import Choice
from trl_ext.recipe.layers.layer import Layer, Layers, Place, Setting
from trl_ext.recipe.vocabulary import exclusive, hyperparameters


def merge_layers(layers: Layers, chosen: Choice | None) -> Layer:
    """One layer of all settings that apply to the chosen loss, or to a method without one (`None`).

    Of hyperparameters that exclude each other, such as `gamma` and `gamma_beta_ratio`, only those of the upper layer stay.
    """
    file, flags = layers.file, layers.flags
    if chosen is None:
        variant = Layer()
    elif isinstance(chosen.loss, str):
        variant = layers.variant_of(chosen.loss)
    else:
        variant = Layer(_variant_of_mix(list(chosen.loss), layers))
        flags = Layer(
            {key: setting for key, setting in flags.settings.items() if key != "loss_kwargs"}, flags.reported
        )
    groups = exclusive()
    merged: dict[str, Setting] = {}
    for upper in (file.settings, variant.settings, flags.settings):
        excluded = {other for group in groups if set(group) & set(upper) for other in group}
        merged = {key: setting for key, setting in merged.items() if key not in excluded} | upper
    return Layer(merged, file.reported | variant.reported | flags.reported)


def _variant_of_mix(losses: list[str], layers: Layers) -> dict[str, Setting]:
    """The variant of a mix of losses, made of those of its parts.

    Each part has the hyperparameters of its own variant, under its name in `loss_kwargs`, unless a flag sets them for every
    part. Other settings, such as a learning rate, are those of the first part whose variant has any. Values that `loss_kwargs`
    gives for one part are included, those of flags last.
    """
    variants = {name: layers.variant_of(name).settings for name in losses}
    of_losses = set(hyperparameters())
    others = [
        {key: setting for key, setting in variant.items() if key not in of_losses} for variant in variants.values()
    ]
    by_part: dict[str, dict[str, Any]] = {
        name: {key: setting.value for key, setting in variant.items() if key in of_losses}
        for name, variant in variants.items()
    }
    _update(by_part, layers.file)
    by_part = {
        name: {key: value for key, value in values.items() if key not in layers.flags.settings}
        for name, values in by_part.items()
    }
    _update(by_part, layers.flags)
    by_part = {name: values for name, values in by_part.items() if values}
    merged = next(filter(None, others), {})
    return merged | ({"loss_kwargs": Setting(by_part, Place("`loss_kwargs`"))} if by_part else {})


def _update(by_part: dict[str, dict[str, Any]], layer: Layer) -> None:
    """Put the values that a layer's `loss_kwargs` gives for one part over those from below."""
    if "loss_kwargs" in layer.settings:
        for name, values in layer.settings["loss_kwargs"].value.items():
            by_part[name] = by_part.get(name, {}) | values
