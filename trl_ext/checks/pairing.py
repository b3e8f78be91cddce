"""Rules about the flags of `trl-ext pairs`: sources of scores, selection, rounds."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trl_ext.checks import evaluation_parts, prompts_file, reward_names, sampling
from trl_ext.checks.data import dataset_path
from trl_ext.methods import Method
from trl_ext.model_files import reward as reward_folder
from trl_ext.support.counts import are, count
from trl_ext.support.messages import joined, shown_text

Values = Mapping[str, Any]


def problems(values: Values, base: str | None = None) -> Iterator[str]:
    """A sentence for each flag that cannot work.

    Args:
        values: The flags by name, with the rewards of the recipe where no flag names another source.
        base: Name or path of the base of the model that is sampled from, which a reward adapter must share.
    """
    yield from _sources(values)
    yield from _rewards(values, base)
    yield from _judge(values, base)
    yield from _prompts(values)
    yield from _selection(values)
    heat = values.get("temperature")
    if heat is not None and not (math.isfinite(heat) and heat > 0):
        yield (
            f"`--temperature` is {heat:g}. All completions of a prompt would be the same one. Give a number above 0."
            if heat == 0
            else f"`--temperature` is {heat}. Give a number above 0."
        )


def _sources(values: Values) -> Iterator[str]:
    has_rewards = values.get("reward_funcs") or values.get("reward_adapter")
    if has_rewards and values.get("judge"):
        yield "`--judge` and rewards (`--reward_funcs`, `--reward_adapter`) were both given. Give one source of scores."
    if not has_rewards and not values.get("judge"):
        yield (
            "There is no source of scores. Add `--reward_funcs` (a known function such as `sentiment`, `rewards.py:function`, a "
            "sequence classifier), `--reward_adapter` (the folder of a reward model trained on the same base), or `--judge`."
        )


def _rewards(values: Values, base: str | None) -> Iterator[str]:
    names, folder = values.get("reward_funcs") or [], values.get("reward_adapter")
    for name in names:
        if (end := reward_names.problem(str(name))) is not None:
            yield f"`--reward_funcs` names {shown_text(str(name))}, {end}"
    if folder and (end := reward_folder.problem(folder, base)) is not None:
        yield f"`--reward_adapter` is {folder}, {end}"
    weights, sources = values.get("reward_weights"), len(names) + bool(folder)
    if weights is not None and not all(isinstance(each, int | float) and math.isfinite(each) for each in weights):
        yield f"`--reward_weights` is {weights}. Give a number per source of reward."
    elif weights is not None and len(weights) != sources:
        yield f"`--reward_weights` has {count(len(weights), 'weights')} for {count(sources, 'reward sources')}. Give one for each."


def _judge(values: Values, base: str | None) -> Iterator[str]:
    of_judges = [key for key in evaluation_parts.OF_JUDGES if evaluation_parts.is_given(values, key)]
    if not values.get("judge"):
        if of_judges or values.get("comparisons") is not None:
            keys = [*of_judges, *(["comparisons"] if values.get("comparisons") is not None else [])]
            yield f"{', '.join(f'`--{key}`' for key in keys)}: only a judge reads this. Add `--judge`, or remove it."
        return
    if len(values["judge"]) > 1:
        yield f"`--judge` names {count(len(values['judge']), 'judges')}. Completions are scored by one: give it once."
    given = {key: values[key] for key in of_judges} | {"judge": values["judge"][:1]}
    yield from evaluation_parts.problems(given, lambda key: f"`--{key}`", base)
    kinds = {evaluation_parts.judge_source.parse(name).kind for name in values["judge"]}
    comparisons, n = values.get("comparisons"), values.get("num_generations")
    if comparisons is None:
        return
    if kinds <= {"function", "reward"}:
        yield (
            f"`--comparisons` is {comparisons}, and the judge {values['judge'][0]} scores each completion alone. Remove it."
        )
    elif n is not None and comparisons < min(n, n * (n - 1) // 2):
        yield (
            f"`--comparisons` is {comparisons}. That does not connect {count(n, 'completions')}: give at least "
            f"{min(n, n * (n - 1) // 2)}."
        )


def _prompts(values: Values) -> Iterator[str]:
    if (name := values.get("prompts")) is None:
        return
    end = None if name.endswith(".txt") else dataset_path(name)
    if end is not None:
        yield f"`--prompts` {end}"
    elif (end := prompts_file.problem(name, values.get("dataset_columns"))) is not None:
        yield f"`--prompts` is {shown_text(name)}, {end}"


def _selection(values: Values) -> Iterator[str]:
    margin = values.get("margin")
    if margin is not None and not (math.isfinite(margin) and margin >= 0):
        yield f"`--margin` is {margin}. Give a number of at least 0, in the unit of the scores."
    if values.get("threshold") is not None and not values.get("labelled"):
        yield "`--threshold` sets labels. Add `--labelled`, or remove it. For pairs, `--margin` is the least difference of scores."
    if values.get("labelled") and values.get("select") is not None:
        yield "`--select` chooses pairs, and `--labelled` gives every completion a label. Remove one of them."
    if values.get("labelled") and values.get("write_margin"):
        yield "`--write_margin` adds a column to pairs, and `--labelled` writes single completions. Remove one of them."
    if values.get("labelled") and values.get("threshold") is not None and margin:
        yield "`--margin` is a distance from the mean score of a prompt, which `--threshold` replaces. Remove one of them."


def problems_of_rounds(values: Values, method: Method, recipe: Values) -> Iterator[str]:
    """A sentence for each flag or setting with which rounds cannot be trained.

    Args:
        values: The flags by name.
        method: The kind of training of the recipe.
        recipe: The recipe's settings.
    """
    if values.get("rounds") is None:
        if values.get("reference") is not None:
            yield "`--reference` is the reference of the training in a round. Add `--rounds`, or remove it."
        return
    if not method.is_default:
        yield (
            f"`--rounds` trains on the pairs that it makes, and the recipe trains {method.title}. Give a recipe with a loss on "
            "pairs or on labelled completions."
        )
        return
    if not recipe.get("use_peft"):
        yield "`--rounds` continues an adapter in every round, and the recipe trains all weights. Set `use_peft: true`."
    if recipe.get("push_to_hub"):
        yield "`push_to_hub` has no effect with `--rounds`. Remove it, and upload the run of the last round."
    if values.get("labelled") and method.is_paired:
        yield "`--labelled` makes labelled completions, and the loss of the recipe reads pairs. Remove it, or choose another loss."
    for key in ("select", "write_margin"):
        if not method.is_paired and values.get(key):
            yield f"`--{key}` is for pairs, and the loss of the recipe reads labelled completions. Remove it."


NOT_READ = ("top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs", "use_vllm", "cache_implementation")
"""Settings of sampling in a recipe that samples, which `trl-ext pairs` does not read."""


def notes(recipe: Values) -> Iterator[str]:
    """A sentence about settings of the recipe that would change how completions are sampled during training."""
    given = [f"`{key}`" for key in NOT_READ if recipe.get(key) not in (None, False, [], {}, sampling.NEUTRAL.get(key))]
    if given:
        yield f"{joined(given)} of the recipe {are(len(given))} not read: completions are sampled from the full distribution."
