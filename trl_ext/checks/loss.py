"""Rules about the loss: whether it fits the data and the other settings."""

from collections.abc import Iterator
from typing import Any

from trl_ext import methods
from trl_ext.checks import sharding
from trl_ext.checks.rule import LOSS, note, problem, samples_pairs
from trl_ext.checks.settings import Settings
from trl_ext.support import counts


@problem(LOSS, applies_to=lambda method: method.reads_preferences)
def data_of_the_loss(s: Settings) -> Iterator[str]:
    """A recipe gets the method that its loss needs; code chooses a configuration."""
    if s.loss.paired != s.method.is_paired:
        fitting = methods.of(None, is_paired=s.loss.paired)
        wanted, given = ("pairs", "labelled completions") if s.loss.paired else ("labelled completions", "pairs")
        yield (
            f"The loss {s.loss.name} trains on {wanted}, and {_class(s.method.config)} is for {given}. Use "
            f"{_class(fitting.config)}."
        )


@problem(LOSS, applies_to=samples_pairs)
def sampled_pairs(s: Settings) -> Iterator[str]:
    if not s.loss.paired:
        yield (
            f"`trainer: {s.method.name}` samples pairs, and the loss {s.loss.name} reads single completions: choose a loss on "
            "pairs."
        )
    if s.loss.coupled:
        yield (
            f"The loss {s.loss.name} compares the pairs of a whole optimizer step, and sampled pairs are trained on in "
            "micro-batches. Choose another loss."
        )
    if s.loss.reads_distributions:
        yield (
            f"The loss {s.loss.name} compares whole next-token distributions, and `trainer: {s.method.name}` keeps log-probabilities "
            "alone. Choose another loss."
        )
    if "gold" in s.loss.columns:
        yield (
            f"The loss {s.loss.name} learns from a gold completion in the data, and `trainer: {s.method.name}` samples its completions. "
            "Choose another loss."
        )
    if s.loss.state:
        yield (
            f"The loss {s.loss.name} keeps running values from optimizer step to optimizer step, and `trainer: {s.method.name}` does "
            "not keep any. Choose another loss."
        )


@problem("datasets", "streaming", "dataset_streaming", LOSS, applies_to=lambda method: method.reads_preferences)
def property_of_the_training_set(s: Settings) -> Iterator[str]:
    key = "streaming" if s["datasets"] else "dataset_streaming"
    if s[key] and s.loss.starts_from_data:
        yield (
            f"The loss {s.loss.name} reads a property of all rows of the training set before the first step, and {s.where(key)} "
            f"reads them one by one. Remove `{key}`, or choose another loss."
        )


@problem("precompute_ref_log_probs", "fsdp", LOSS, applies_to=lambda method: method.reads_preferences)
def whole_distributions(s: Settings) -> Iterator[str]:
    if not s.loss.reads_distributions:
        return
    what = f"the loss {s.loss.name} compares the whole next-token distributions of policy and reference"
    if s["precompute_ref_log_probs"]:
        yield (
            f"{s.where('precompute_ref_log_probs')} keeps one log-probability per completion, and {what}. Remove it, or choose "
            "another loss."
        )
    if sharding.is_on(s["fsdp"]):
        yield f"FSDP shards the LM head, and {what}, which is not supported with it. Choose another loss, or train without FSDP."


@note("reference_cache", LOSS, applies_to=lambda method: method.reads_preferences)
def uncached_distributions(s: Settings) -> Iterator[str]:
    if s["reference_cache"] and s.loss.reads_distributions:
        yield (
            f"The reference cache is not used: the loss {s.loss.name} compares whole next-token distributions, so the reference runs "
            "in every step."
        )


@problem("use_weighting", LOSS)
def weighted_pairs(s: Settings) -> Iterator[str]:
    if s["use_weighting"] and s.loss.coupled:
        yield (
            f"{s.where('use_weighting')} weighs single pairs, and the loss {s.loss.name} compares the pairs of an "
            "optimizer step. Turn off `use_weighting`, or choose another loss."
        )


def mix_from_trl(names: list[str] | str, weights: Any) -> dict[str, float]:
    """TRL's `loss_type` and `loss_weights` as {name: weight}. ValueError unless there is a weight for each name."""
    names = [names] if isinstance(names, str) else names
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if not isinstance(weights, list) or len(weights) != len(names):
        count = len(weights) if isinstance(weights, list) else 1
        raise ValueError(
            f"`loss_weights` has {counts.count(count, 'weights')} for {counts.count(len(names), 'losses')}. Give one for each."
        )
    return dict(zip(names, weights, strict=True))


def _class(path: str) -> str:
    """The class that a "module:name" of the table of methods names."""
    return path.rpartition(":")[2]
