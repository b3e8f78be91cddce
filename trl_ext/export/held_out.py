"""Token sequences to compare models on: the completions of a run's data, cut as its trainer cut them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from trl.data_utils import common_prefix_length, is_conversational, maybe_convert_to_chatml

from trl_ext import build, examples
from trl_ext.errors import UserError
from trl_ext.export.source import Source
from trl_ext.recipe.checks import EMBEDDED
from trl_ext.sampling import Completion

ANSWERS = ("chosen", "rejected", "completion")


class HeldOut(NamedTuple):
    """Rows of a run's data.

    Attributes:
        completions: Both of a pair one after the other. Empty where the data has prompts alone.
        prompts: Token ids of prompts to sample completions for, where the data has no others.
        what: Which rows they are, for a sentence.
    """

    completions: list[Completion]
    prompts: list[list[int]]
    what: str


def of_run(source: Source, tokenizer: Any, rows: int) -> HeldOut:
    """The first rows of a run's evaluation data, or of its training data where it has no other.

    Args:
        source: With a recipe.
        tokenizer: Of the run.
        rows: How many; a pair is one.

    Raises:
        UserError: The data cannot be read any more, or holds images.
    """
    recipe = source.recipe
    args = build.config(recipe, source.folder, build.precision(recipe))
    if recipe.get("dataset_name") == EMBEDDED:
        args.eval_strategy = "steps"  # it has a test split, whether the run looked at it or not
    train, evaluation = examples.load(recipe, args, [])
    found = list(itertools.islice(train if evaluation is None else evaluation, rows))
    if any(name in found[0] for name in ("image", "images")):
        raise UserError("The run's data holds images, and models are compared on text alone.")
    where = "of its training data, since it holds none out" if evaluation is None else "held out"
    limit = getattr(args, "max_length", None)
    completions = [c for row in found for c in completions_of(row, tokenizer, limit)]
    if completions:
        return HeldOut(completions, [], f"{len(completions):,} completions of {len(found):,} rows {where}")
    prompts = [_ids(row["prompt"], row, tokenizer, add_generation_prompt=True) for row in found]
    return HeldOut([], prompts, f"{len(prompts):,} completions sampled for prompts {where}")


def completions_of(row: Mapping[str, Any], tokenizer: Any, limit: int | None) -> list[Completion]:
    """Every completion of a row of TRL's dataset types, tokenised as TRL does and cut at `limit` tokens with its prompt.

    A conversation without a prompt is its last message after the others; of plain text, all but the first token counts.
    """
    row = maybe_convert_to_chatml(dict(row))
    if "messages" in row:
        row = {**row, "prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
    if "text" in row:
        ids = tokenizer(_ended(row["text"], tokenizer))["input_ids"]
        return _cut(ids[:1], [ids], limit)
    answers = [row[name] for name in ANSWERS if name in row]
    if not is_conversational(row):
        answers = [_ended(answer, tokenizer) for answer in answers]
    prompt = _ids(row["prompt"], row, tokenizer, add_generation_prompt=True)
    return _cut(prompt, [_ids(row["prompt"] + answer, row, tokenizer) for answer in answers], limit)


def _ended(text: str, tokenizer: Any) -> str:
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def _ids(text: str | list, row: Mapping[str, Any], tokenizer: Any, **options: Any) -> list[int]:
    if isinstance(text, str):
        return tokenizer(text)["input_ids"]
    options |= {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
    return tokenizer.apply_chat_template(text, return_dict=False, **options)


def _cut(prompt: list[int], whole: Iterable[list[int]], limit: int | None) -> list[Completion]:
    """The prompt's tokens end where any of the sequences leaves it."""
    whole = list(whole)
    length = min((common_prefix_length(prompt, ids) for ids in whole), default=len(prompt))
    cut = [Completion(ids[:length], ids[length:limit], "", True) for ids in whole]
    return [completion for completion in cut if completion.prompt_ids and completion.ids]
