"""Tables of what a recipe can hold: formats, kinds of training, settings; and of the shipped recipes."""

import dataclasses
from pathlib import Path

from trl_ext.checks import evaluation_parts
from trl_ext.data import formats
from trl_ext.methods import METHODS
from trl_ext.recipe import schema, shipped
from trl_ext.recipe.extras import DataExtras, ModelExtras, RunExtras
from trl_ext.trainers.preference.config import PairedPreferenceConfig, UnpairedPreferenceConfig

ROOT = Path(__file__).parents[1]


def formats_of_data() -> str:
    """Every format of preference data that is recognised."""
    lines = ["| `dataset_format` | what it is | columns |", "|---|---|---|"]
    for format in formats.FORMATS:
        lines.append(f"| `{format.NAME}` | {format.TITLE} | {format.NEEDS} |")
    return "\n".join(lines)


def methods() -> str:
    """Every kind of training: how a recipe chooses it, and the data it learns from."""
    lines = ["| `trainer` | trains | learns from |", "|---|---|---|"]
    for method in METHODS.values():
        chosen = "none; `loss` decides" if method.is_default else f"`{method.name}`"
        lines.append(f"| {chosen} | {method.title} | {READS[method.reads]} |")
    return "\n".join(lines)


READS = {
    "pairs": "pairs of a chosen and a rejected completion",
    "labelled": "completions labelled desirable or undesirable; pairs become two of them",
    "prompts": "prompts; completions are sampled and scored",
    "demonstrations": "completions to imitate, or the chosen ones of pairs",
}


def recipes() -> str:
    """Every shipped recipe with its model, what it trains, its hardware and what was measured."""
    lines = ["| recipe | model | trains | on | hardware | measured peak and time |", "|---|---|---|---|---|---|"]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        recipe = shipped.describe(path)
        lines.append(
            f"| [{recipe.name}](../recipes/{path.name}) | {recipe.model_name} | {recipe.trains} | {recipe.data} | {recipe.hardware} "
            f"| {recipe.measured} |"
        )
    return "\n".join(lines)


def settings() -> str:
    """Keys of preference recipes that TRL lacks, or that have another meaning or default than in TRL."""
    lines = ["| key | default | what it does |", "|---|---|---|"]
    classes = (PairedPreferenceConfig, UnpairedPreferenceConfig, ModelExtras, DataExtras, RunExtras)
    ours = {
        name
        for cls in classes
        for part in cls.__mro__
        if part.__module__.startswith("trl_ext")
        for name in vars(part).get("__annotations__", ())
    }
    fields = {
        field.name: field for cls in classes for field in dataclasses.fields(cls) if field.name in ours - LOSS_FIELDS
    }
    for name, field in sorted(fields.items()):
        default = (
            ""
            if field.default in (None, dataclasses.MISSING)
            else f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
        )
        lines.append(f"| `{name}` | {default} | {field.metadata.get('help', '')} |")
    return "\n".join(lines)


LOSS_FIELDS = {
    "loss_type", "beta", "label_smoothing", "discopop_tau", "f_divergence_type", "f_alpha_divergence_coef",
    "desirable_weight", "undesirable_weight",
}  # fmt: skip
"""TRL's fields for hyperparameters of a loss: unset here, as each loss has its own defaults."""


def evaluation() -> str:
    """Every entry of `evaluation`, and the part of an evaluation that reads it."""
    lines = ["| entry | read by | what it does |", "|---|---|---|"]
    for name, field in schema.fields("EvaluationKeys").items():
        parts = ", ".join(part for part, keys in evaluation_parts.READS.items() if name in keys)
        lines.append(f"| `{name}` | {parts} | {field.help} |")
    return "\n".join(lines)


def search() -> str:
    """Every entry of `search`."""
    lines = ["| entry of `search` | what it does |", "|---|---|"]
    lines += [f"| `{name}` | {field.help} |" for name, field in schema.fields("SearchKeys").items()]
    return "\n".join(lines)
