"""Make token sequences to compare models on: the completions of a run's data, cut as its trainer cut them."""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

from datasets import Dataset
from trl.data_utils import maybe_convert_to_chatml

from trl_ext.build import dataset
from trl_ext.build.config import training_config
from trl_ext.demo import EMBEDDED
from trl_ext.export.source import Source
from trl_ext.inspection.tokenise import has_images, tokenise
from trl_ext.methods import Method
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.support.sampling import Completion

UNSCORED = -100
"""Label of a token without loss."""


class HeldOut(NamedTuple):
    """Rows of a run's data.

    Attributes:
        completions: Both of a pair one after the other. Empty if the data has only prompts.
        prompts: Token ids of prompts to sample completions for, if the data has only prompts.
        what: Description of the rows, for messages.
    """

    completions: list[Completion]
    prompts: list[list[int]]
    what: str


def of_run(source: Source, tokenizer: Any, rows: int) -> HeldOut:
    """The first rows of a run's evaluation data, or of its training data if it has no evaluation data.

    Args:
        source: With a recipe.
        tokenizer: Of the run.
        rows: Number of rows; a pair is one row.

    Raises:
        UserError: The data cannot be read any more, or holds images.
    """
    recipe = source.recipe
    args = training_config(recipe, source.folder)
    if recipe.get("dataset_name") == EMBEDDED:
        args.eval_strategy = "steps"  # it has a test split, whether the run looked at it or not
    train, evaluation = dataset.load(recipe, args, [])
    found = Dataset.from_list(list(itertools.islice(train if evaluation is None else evaluation, rows)))
    if has_images(found):
        raise UserError("The run's data holds images, but models are compared on text only.")
    where = "of its training data (it holds no rows out)" if evaluation is None else "held out"
    method = recipe.method
    if method.reads == "prompts":
        prompts = tokenise(method, found, tokenizer, args)["prompt_ids"][:]
        return HeldOut([], prompts, f"{count(len(prompts), 'completions')} sampled for prompts {where}")
    completions = completions_of(method, found, tokenizer, args)
    return HeldOut(completions, [], f"{count(len(completions), 'completions')} of {count(len(found), 'rows')} {where}")


def completions_of(method: Method, rows: Dataset, tokenizer: Any, args: Any) -> list[Completion]:
    """Every completion of the rows, tokenized as the trainer does and cut at `max_length` tokens including its prompt.

    For a conversation without a prompt, the last message is the completion; for plain text, all tokens but the first.

    Args:
        method: The kind of training, which is not one that reads prompts.
        rows: Of TRL's dataset types.
        tokenizer: Of the run.
        args: The trainer's configuration.
    """
    is_demonstration = method.reads == "demonstrations"
    if is_demonstration:
        rows = Dataset.from_list([_last_message_apart(row) for row in rows])
        args = copy.copy(args)
        args.completion_only_loss, args.assistant_only_loss = None, False  # compared is all of an answer
    found = [
        _completion(row["prompt_ids"], row[name], args.max_length)
        for row in map(_demonstration if is_demonstration else dict, tokenise(method, rows, tokenizer, args))
        for name in (f"{completion}_ids" for completion in method.completions)
    ]
    return [completion for completion in found if completion.prompt_ids and completion.ids]


def _last_message_apart(row: dict[str, Any]) -> dict[str, Any]:
    row = maybe_convert_to_chatml(dict(row))
    messages = row.pop("messages", None)
    return row if messages is None else {**row, "prompt": messages[:-1], "completion": messages[-1:]}


def _demonstration(row: dict[str, Any]) -> dict[str, list[int]]:
    ids, labels = row["input_ids"], row["labels"]
    start = next((place for place, label in enumerate(labels) if place and label != UNSCORED), len(ids))
    return {"prompt_ids": ids[:start], "completion_ids": ids[start:]}


def _completion(prompt: list[int], ids: list[int], limit: int | None) -> Completion:
    return Completion(prompt, ids if limit is None else ids[: max(limit - len(prompt), 0)], "", True)
