"""Remove text that would be doubled: end and beginning tokens that the trainer or the template adds, prompts in completions.

TRL adds an end-of-sequence token to plain completions unless they end with exactly that. A chat template ends every turn. Many
tokenizers put a beginning token before plain text. Text that holds these tokens already would have them twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets
from trl import is_conversational

from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.formats.content_parts import text_of
from trl_ext.data.template_marks import is_marked, marks
from trl_ext.inspection import special_tokens
from trl_ext.support.counts import count

COMPLETIONS = ("chosen", "rejected", "gold", "completion")
COLUMNS = ("prompt", *COMPLETIONS, "messages", "text")
LOOKED_AT = 256
"""Rows of a stream that decide what is removed from all of them."""
MOST = 0.95
"""Share of rows from which on a prompt at the beginning of completions is taken for a copy, and removed."""
SHORTEST = 12
"""Characters of a prompt that does not stand at the beginning of a completion by chance."""
END, BEGINNING, PROMPT, COULD_REPEAT, BY_HAND = 1, 2, 4, 8, 16
"""Bits of a row: its text ends or begins with a token that is added, its completions repeat the prompt, they could, a message
contains what the chat template writes between turns."""
COLUMN = "_trl_ext_doubled"


class Tokens(NamedTuple):
    """The tokens that are added to text.

    Attributes:
        ends: Those that end a turn of the chat template; for plain text, the one that TRL adds.
        beginning: The one that begins every text; `None` if none is added.
        marks: What the chat template writes between turns; empty for plain text.
    """

    ends: tuple[str, ...]
    beginning: str | None
    marks: tuple[str, ...] = ()


class Found(NamedTuple):
    """Rows whose text would be doubled, by the kind of text."""

    rows: dict[int, np.ndarray]
    total: int
    prompts: int


def added_tokens(tokenizer: Any, stops: list[str], in_turns: bool) -> Tokens:
    """The tokens that a tokenizer and its trainer add to plain text, or its chat template to turns.

    Args:
        tokenizer: The tokenizer.
        stops: The tokens that end a sequence, as text.
        in_turns: Whether the data are conversations.
    """
    ids = special_tokens.exchange(tokenizer) if in_turns else tokenizer("a")["input_ids"]
    begins = bool(ids) and tokenizer.bos_token is not None and ids[0] == tokenizer.bos_token_id
    ends = (tokenizer.eos_token,)
    if in_turns:
        end = special_tokens.end_of_turn(tokenizer)
        ends = tuple(dict.fromkeys((tokenizer.convert_ids_to_tokens(end), *stops)))
        if ends[0] not in tokenizer.added_tokens_encoder and ends[0] not in stops:
            ends = ()  # the template writes no end
    found = marks(lambda turns: tokenizer.apply_chat_template(turns, tokenize=False)) if in_turns else ()
    return Tokens(ends, tokenizer.bos_token if begins else None, found)


def is_chat(dataset: Dataset | IterableDataset) -> bool:
    """Whether examples are conversations."""
    return is_conversational(next(iter(dataset), {}))


def remove(
    dataset: Dataset | IterableDataset, tokenizer: Any, stops: list[str], numbers: np.ndarray | None = None
) -> tuple[Dataset | IterableDataset, list[str]]:
    """The examples with nothing doubled, and sentences about what was removed or found.

    Args:
        dataset: Examples of TRL's types.
        tokenizer: The tokenizer.
        stops: The tokens that end a sequence, as text.
        numbers: The number of each row in its source (default: its position).
    """
    first = dataset.take(LOOKED_AT) if isinstance(dataset, IterableDataset) else dataset
    columns = [name for name in COLUMNS if name in (dataset.column_names or ())]
    if not columns or (is_chat(dataset) and not tokenizer.chat_template):
        return dataset, []
    tokens = added_tokens(tokenizer, stops, is_chat(dataset))
    if isinstance(first, IterableDataset):
        rows = list(first.select_columns(columns))
        first = Dataset.from_list(rows, features=first.select_columns(columns).features)
    found = _find(first.select_columns(columns), tokens)
    kinds = sum(kind for kind in (END, BEGINNING) if len(found.rows[kind]))
    if _is_copy(found):
        kinds |= PROMPT
    where = f"Of the first {found.total:,} rows, " if isinstance(dataset, IterableDataset) else ""
    sentences = [where + line for line in _sentences(found, tokens, kinds, numbers)]
    return (_without(dataset, columns, tokens, kinds) if kinds else dataset), sentences


def _find(dataset: Dataset, tokens: Tokens) -> Found:
    bits = dataset.map(
        lambda batch: {COLUMN: [_bits(row, tokens) for row in _rows(batch)]},
        batched=True,
        remove_columns=dataset.column_names,
        features=Features({COLUMN: Value("uint8")}),
        new_fingerprint=fingerprint(dataset, "doubled", tokens),
        desc="Looking for doubled ends",
    )
    values = np.asarray(bits.with_format("numpy")[COLUMN][:]) if len(bits) else np.empty(0, np.uint8)
    return Found(
        {kind: np.flatnonzero(values & kind) for kind in (END, BEGINNING, PROMPT, BY_HAND)},
        len(values),
        int((values & COULD_REPEAT != 0).sum()),
    )


def _is_copy(found: Found) -> bool:
    return len(found.rows[PROMPT]) > 0 and len(found.rows[PROMPT]) >= MOST * found.prompts


def _bits(row: dict[str, Any], tokens: Tokens) -> int:
    """The bits of a row."""
    bits = 0
    for name, value in row.items():
        bits |= _cleaned(name, value, tokens, END | BEGINNING)[1]
        if isinstance(value, list) and any(is_marked(message["content"], tokens.marks) for message in value):
            bits |= BY_HAND
    prompt = _last_text(row.get("prompt"))
    if len(prompt.strip()) >= SHORTEST:
        bits |= COULD_REPEAT
        completions = [_first_text(row[name]) for name in COMPLETIONS if name in row]
        bits |= PROMPT if completions and all(_repeats(prompt, text) for text in completions) else 0
    return bits


def _cleaned(name: str, value: Any, tokens: Tokens, kinds: int) -> tuple[Any, int]:
    """A text or conversation without the tokens that are added to it, and which kinds it had."""
    if isinstance(value, str):
        ended = value
        if kinds & END and name != "prompt" and not _is_ended_once(value, tokens.ends):
            ended = _without_ends(value, tokens.ends)
        begun = _without_beginning(ended, tokens.beginning) if kinds & BEGINNING else ended
        return begun, END * (ended != value) | BEGINNING * (begun != ended)
    if not isinstance(value, list):
        return value, 0
    turns, bits = [], 0
    for i, message in enumerate(value):
        text = message["content"]
        if isinstance(text, str):
            ended = _without_ends(text, tokens.ends) if kinds & END else text
            is_first = i == 0 and name in ("prompt", "messages")
            begun = _without_beginning(ended, tokens.beginning) if kinds & BEGINNING and is_first else ended
            bits |= END * (ended != text) | BEGINNING * (begun != ended)
            message = {**message, "content": begun} if begun != text else message
        turns.append(message)
    return turns, bits


def _is_ended_once(text: str, ends: tuple[str, ...]) -> bool:
    """True if TRL leaves the text as it is."""
    return any(text.endswith(end) and not text.removesuffix(end).rstrip().endswith(end) for end in ends)


def _without_ends(text: str, ends: tuple[str, ...]) -> str:
    """The text without the end tokens in its end and the white space after them."""
    while (end := next((end for end in ends if text.rstrip().endswith(end)), None)) is not None:
        text = text.rstrip().removesuffix(end)
    return text


def _without_beginning(text: str, beginning: str | None) -> str:
    while beginning and text.lstrip().startswith(beginning):
        text = text.lstrip().removeprefix(beginning)
    return text


def _repeats(prompt: str, completion: str) -> bool:
    return completion.lstrip().startswith(prompt.strip())


def _last_text(prompt: Any) -> str:
    """A prompt, or the text of its last turn."""
    return prompt if isinstance(prompt, str) else text_of(prompt[-1]["content"]) if prompt else ""


def _first_text(completion: Any) -> str:
    return completion if isinstance(completion, str) else text_of(completion[0]["content"]) if completion else ""


def _row(row: dict[str, Any], tokens: Tokens, kinds: int) -> dict[str, Any]:
    """The row without what is doubled."""
    prompt = _last_text(row.get("prompt")).strip()
    done = {}
    for name, value in row.items():
        if kinds & PROMPT and name in COMPLETIONS and len(prompt) >= SHORTEST and _repeats(prompt, _first_text(value)):
            rest = _first_text(value).lstrip().removeprefix(prompt)
            if isinstance(value, str):
                # Of a prompt that ends with white space, the completion has it no second time.
                value = rest.lstrip() if row["prompt"][-1:].isspace() else rest
            elif isinstance(value[0]["content"], str):
                value = [{**value[0], "content": rest.lstrip()}, *value[1:]]
        done[name] = _cleaned(name, value, tokens, kinds)[0]
    return done


def _without(dataset: Any, columns: list[str], tokens: Tokens, kinds: int) -> Any:
    def clean(batch: dict[str, list]) -> dict[str, list]:
        rows = [_row(row, tokens, kinds) for row in _rows({name: batch[name] for name in columns})]
        return {name: [row[name] for row in rows] for name in columns}

    if isinstance(dataset, IterableDataset):
        return dataset.map(clean, batched=True, features=dataset.features)
    narrow = dataset.select_columns(columns)
    done = narrow.map(
        clean,
        batched=True,
        features=narrow.features,
        new_fingerprint=fingerprint(narrow, "not doubled", tokens, kinds),
        desc="Removing doubled ends",
    )
    rest = [name for name in dataset.column_names if name not in columns]
    done = concatenate_datasets([done, dataset.select_columns(rest)], axis=1) if rest else done
    return done.select_columns(dataset.column_names)


def _rows(batch: dict[str, list]) -> list[dict[str, Any]]:
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def _sentences(found: Found, tokens: Tokens, kinds: int, numbers: np.ndarray | None) -> list[str]:
    def rows(kind: int) -> str:
        places = found.rows[kind]
        first = places[0] if numbers is None else numbers[places[0]]
        return f"{count(len(places), 'rows')} (first: row {int(first):,})"

    lines = []
    if kinds & END:
        ends = " or ".join(f"`{end}`" for end in tokens.ends)
        lines.append(
            f"{rows(END)} had text that ends with {ends}, which is added to it; the text's own end was removed."
        )
    if kinds & BEGINNING:
        lines.append(
            f"{rows(BEGINNING)} had text that begins with `{tokens.beginning}`, which is added to it; the text's own was removed."
        )
    if len(found.rows[PROMPT]):
        then = (
            "it was removed from them"
            if kinds & PROMPT
            else "it stays, because most rows do not have it. Remove it from the data if it is a copy"
        )
        lines.append(f"{rows(PROMPT)} had the prompt at the beginning of the completions; {then}.")
    if len(found.rows[BY_HAND]):
        lines.append(
            f"{rows(BY_HAND)} had messages that contain `{tokens.marks[0]}`, which the chat template writes. So the template was "
            "applied by hand, and is applied a second time. Write the messages without it, or one text per prompt and completion "
            "as plain text."
        )
    return lines
