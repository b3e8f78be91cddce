"""Find the prompts that a finished run and its base are asked: those it held out, or those of other data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from trl_ext.build import dataset as recipe_data
from trl_ext.build.template import in_form
from trl_ext.data import plain_data
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.files.names import without_endings
from trl_ext.data.prompts import PROMPTS
from trl_ext.data.report import Loaded
from trl_ext.data.sampling import sample
from trl_ext.data.template_variables import as_mappings
from trl_ext.demo import EMBEDDED
from trl_ext.evaluation import rows as own_rows
from trl_ext.evaluation import template_variables
from trl_ext.judging.judge import Conversation, Prompt, key
from trl_ext.judging.scorers import prompt_ids
from trl_ext.recipe import Recipe
from trl_ext.support.counts import count, were
from trl_ext.support.errors import UserError

NOT_COLUMNS = {"prompt", "messages", "completion", "chosen", "rejected", "label", "images", "image"}
"""Columns that are not passed to a judge's reward function."""


def _from_columns(dataset: Dataset | IterableDataset, where: str) -> Loaded:
    has_prompts = "prompt" in dataset.column_names or not DEMONSTRATIONS.has_columns(sample(dataset))
    return (PROMPTS if has_prompts else DEMONSTRATIONS).from_columns(dataset, where)


READING = PROMPTS._replace(
    from_columns=_from_columns,
    has_columns=lambda found: PROMPTS.has_columns(found) or DEMONSTRATIONS.has_columns(found),
)
"""Prompts of every kind of data: a column of their own, those of preferences, and conversations."""


class PromptChoice(NamedTuple):
    """The prompts the user asked for.

    Attributes:
        file: A file, a folder or a name on the Hub; `None` for the run's own data.
        split: Of the data; `None` for the rows the run held out, or else the test split, or the only one.
        columns: `dataset_columns` of `file`.
        limit: Maximum number of prompts; the first ones are taken. `None` for all.
    """

    file: str | None = None
    split: str | None = None
    columns: dict[str, str] | None = None
    limit: int | None = 256


class Prompts(NamedTuple):
    """Distinct prompts.

    Attributes:
        prompts: Texts or conversations.
        columns: Other columns of their rows, a value per prompt.
        name: Of the data and its split.
        statements: Sentences for the user.
    """

    prompts: list[Prompt]
    columns: dict[str, list[Any]]
    name: str
    statements: list[str]


def find_prompts(recipe: Recipe, args: Any, choice: PromptChoice) -> Prompts:
    """The prompts to sample answers to. Runs of every kind of training have some.

    Args:
        recipe: The run's recipe.
        args: The configuration of its trainer.
        choice: What the user asked for.

    Raises:
        UserError: There is no such data, it has no prompts, or the run held none out.
    """
    evaluates = args.eval_strategy != "no" or args.eval_on_start
    has_own = recipe.get("eval_size") or (recipe.get("datasets") and evaluates)
    statements: list[str] = []
    if choice.file is None and choice.split is None and has_own:
        dataset = recipe_data.load(recipe, args, statements)[1]
        name = f"{without_endings(recipe.get('dataset_name') or 'mixture')}-held-out"
    else:
        dataset, name = _named(recipe, args, choice, statements)
    prompts, columns = distinct(dataset, choice.limit, name, getattr(args, "chat_template_kwargs", None))
    return Prompts(prompts, columns, name, list(dict.fromkeys(statements)))


def _named(recipe: Recipe, args: Any, choice: PromptChoice, statements: list[str]) -> tuple[Any, str]:
    """A split of the run's own data, or of other data."""
    own = recipe.get("dataset_name")
    is_own = choice.file is None or own_rows.place(choice.file) == own_rows.place(own or "")
    name = own if is_own else choice.file
    if name is None:
        raise UserError(
            "The run's data is a mixture, and no rows of it were held out. Choose prompts with `--prompts`, or set `eval_size` in "
            "the recipe and train again."
        )
    options = own_rows.reading_options(recipe, choice.columns, is_own)
    # A run recorded before `apply_chat_template` existed says nothing about plain text of other data.
    other = dataclasses.replace(recipe, precedes_apply_chat_template=False)
    if name.endswith(".txt"):
        loaded = plain_data.load(_lines(name), READING, split="train", title=Path(name).name)
        dataset = in_form(other, loaded, args, statements, is_own=False).dataset
        return dataset, Path(name).stem
    split = choice.split or own_rows.default_split(name, options, recipe if is_own else None)
    title = {"title": EMBEDDED} if name == EMBEDDED else {}
    loaded = as_mappings(plain_data.load(own_rows.place(name), READING, split=split, **options, **title))
    dataset, report = in_form(recipe if is_own else other, loaded, args, statements, is_own=is_own)
    statements[:0] = report.sentences()
    if is_own and own_rows.whole(split) == own_rows.whole(own_rows.train_split(recipe)):
        statements.append(own_rows.TRAINED_ON)
    return dataset, f"{without_endings(name)}-{split}"


def fitting(found: Prompts, tokenizer: Any, longest: int | None, max_new_tokens: int) -> Prompts:
    """The prompts that leave room for an answer in the model's context, with sentences about the others, and about what no
    model reads of them.

    Args:
        found: The prompts.
        tokenizer: Of the model.
        longest: Tokens that the model takes; `None` if it has no limit.
        max_new_tokens: Largest number of tokens of an answer.

    Raises:
        UserError: None is left.
    """
    said = list(template_variables.statements(found.prompts, _rows(found), tokenizer))
    found = found._replace(statements=[*found.statements, *said])
    if longest is None:
        return found
    lens = [len(prompt_ids(prompt, tokenizer)) for prompt in found.prompts]
    kept = [i for i, n in enumerate(lens) if n + max_new_tokens <= longest]
    if not kept:
        raise UserError(
            f"The model takes {longest:,} tokens. No prompt leaves room for {max_new_tokens:,} more (`--max_new_tokens`). Give a "
            "smaller number, or shorter prompts."
        )
    if (n := len(lens) - len(kept)) == 0:
        return found
    said = (
        f"{count(n, 'prompts')} {were(n)} left out: with an answer of {max_new_tokens:,} tokens (`--max_new_tokens`) they exceed the "
        f"{longest:,} tokens that the model takes."
    )
    columns = {name: [values[i] for i in kept] for name, values in found.columns.items()}
    return found._replace(
        prompts=[found.prompts[i] for i in kept], columns=columns, statements=[*found.statements, said]
    )


def _rows(found: Prompts) -> list[dict[str, Any]]:
    names = [name for name in template_variables.COLUMNS if name in found.columns]
    return [{name: found.columns[name][i] for name in names} for i in range(len(found.prompts))]


def _lines(name: str) -> Dataset:
    """The prompts of a text file, one per line."""
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{name} cannot be read as a text in UTF-8 ({error}). Check the path, or save it as UTF-8."
        ) from error
    if not any(map(str.strip, lines)):
        raise UserError(
            f"{name} has no prompts. Write one per line, or a JSON object with `prompt` per line (.jsonl)."
        )
    return Dataset.from_list([{"prompt": line} for line in lines if line.strip()])


def distinct(
    dataset: Dataset | IterableDataset, limit: int | None, where: str, variables: dict[str, Any] | None = None
) -> tuple[list[Prompt], dict[str, list[Any]]]:
    """The first prompts that differ, and the other columns of their rows.

    Args:
        dataset: Rows with `prompt` or `messages`.
        limit: Maximum number of prompts; `None` for all.
        where: Name of the data for messages.
        variables: `chat_template_kwargs` of the run.

    Raises:
        UserError: There are images, or no prompts.
    """
    if {"image", "images"} & set(dataset.column_names):
        raise UserError(
            f"{where} contains images. Only answers to text can be judged: choose other prompts with `--prompts`."
        )
    found: dict[str, tuple[Prompt, dict[str, Any]]] = {}
    has_prompts = {"prompt", "messages"} & set(dataset.column_names)
    for row in dataset if has_prompts else ():
        prompt = _prompt(row, variables)
        if prompt:
            found.setdefault(key(prompt), (prompt, row))
        if len(found) == limit:
            break
    if not found:
        raise UserError(f"{where} has no prompts. Choose other data with `--prompts`.")
    names = [name for name in dataset.column_names if name not in NOT_COLUMNS]
    return [prompt for prompt, _ in found.values()], {name: [row[name] for _, row in found.values()] for name in names}


def _prompt(row: dict[str, Any], variables: dict[str, Any] | None) -> Prompt:
    """The prompt of a row; of a whole conversation, the messages before the last one of the assistant."""
    given = row.get("prompt")
    if given is None:
        given = row["messages"] or []
        last = max((i for i, message in enumerate(given) if message["role"] == "assistant"), default=len(given))
        given = given[:last]
    if isinstance(given, str):
        return given if given.strip() else ""
    messages = [{"content": "", **template_variables.without_none(message)} for message in given]
    return Conversation(
        [{"role": message["role"], **message} for message in messages], template_variables.of_row(row, variables)
    )


def describe(found: Prompts) -> str:
    """`64 prompts of embedded-test`."""
    return f"{count(len(found.prompts), 'prompts')} of {found.name}"
