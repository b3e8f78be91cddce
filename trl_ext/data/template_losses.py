"""Say before a run, from a model's chat template and the first rows of a local file, what the template leaves out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trl_ext.data import statements
from trl_ext.data.chat_roles import ROLES
from trl_ext.data.files.first_rows import ROWS
from trl_ext.data.formats import Row, Sample, recognise
from trl_ext.data.formats.messages import as_messages
from trl_ext.data.formats.row_outcome import Drop
from trl_ext.data.page import Page, words
from trl_ext.data.recognise_file import sample_of_file
from trl_ext.data.statements import Piece
from trl_ext.model_files.chat_template import Template

REMEDY = "Use a model whose chat template writes it, or put another template into the tokenizer's folder (`chat_template.jinja`)"
WHOLE = ("messages", "conversations", "conversation")


class Losses(NamedTuple):
    """What the chat template leaves out of the first rows of a file.

    Attributes:
        total: Number of rows that were written with the template.
        lacking: Number of rows that lack something.
        empty: Number of rows with nothing left of a completion, or of a prompt that completions are sampled for.
        example: The first such row, and what it lacks in words.
        is_all: Whether the file has no other rows.
    """

    total: int
    lacking: int
    empty: int
    example: str
    is_all: bool


def losses(
    reads: str, template: Template, name: str, columns: Mapping[str, str] | None = None, format: str = "auto"
) -> Losses | None:
    """Write the first rows with the template and compare.

    Args:
        reads: The rows that the method reads, as `trl_ext.methods.Method.reads`.
        template: The chat template of the model.
        name: A local file.
        columns: `dataset_columns`.
        format: `dataset_format`.

    Returns:
        What is left out; `None` if no row can be read or written.
    """
    found = sample_of_file(name, columns)
    if found is None:
        return None
    total, lacking, empty, example = 0, 0, 0, ""
    for number, conversations in enumerate(_conversations(found, reads, format)):
        try:
            missing = [_missing(template, reads, *given) for given in conversations]
        except Exception:  # a template refuses such a row; the run says which
            continue
        pieces = [piece for found, _ in missing for piece in found]
        is_empty = any(is_empty for _, is_empty in missing)
        if pieces and (not example or (is_empty and not empty)):
            example = f"Row {number}, for instance, lacks {words(pieces)}"
        total, lacking, empty = total + bool(missing), lacking + bool(pieces), empty + is_empty
    return Losses(total, lacking, empty, example, len(found.rows) < ROWS) if total else None


Given = tuple[list[dict], list[dict], Any]
"""A prompt, a completion and the declared tools."""


def _conversations(found: Sample, reads: str, format: str) -> Iterator[list[Given]]:
    """The conversations of each row; none for a row that cannot be read."""
    match = recognise(found, format)
    for row in found.rows:
        tools = _decoded(row.get("tools")) if reads != "prompts" else None
        try:
            if match is None:
                yield [_unjudged(row, tools)]
                continue
            done = match.apply({name: row.get(name) for name in (*match.columns, *filter(None, [match.label]))}, set())
            names = match.outputs[1:2] if reads == "demonstrations" else match.outputs[1:]
            prompt = _turns(done["prompt"], "prompt")
            yield (
                [(prompt, _turns(done[name], name), tools) for name in names]
                if reads != "prompts"
                else [(prompt, [], tools)]
            )
        except Drop:
            yield []


def _unjudged(row: Row, tools: Any) -> Given:
    """A row that is no preference: a prompt, with its completion or without, or a whole conversation."""
    whole = next((row[name] for name in WHOLE if row.get(name) is not None), None)
    if whole is not None:
        return [], as_messages(whole, "user", set()), tools
    completion = row.get("completion")
    return _turns(row.get("prompt"), "prompt"), _turns(completion, "completion") if completion else [], tools


def _turns(value: Any, name: str) -> list[dict]:
    return as_messages(value, ROLES.get(name, "user"), set())


def _missing(
    template: Template, reads: str, prompt: list[dict], completion: list[dict], tools: Any
) -> tuple[list[Piece], bool]:
    """What one conversation lacks, and whether nothing is left of the part that matters."""
    begins = not completion
    page = Page(template.render([*prompt, *completion], tools=tools or None, add_generation_prompt=begins))
    in_prompt = page.lacks([*statements.declared(tools), *statements.pieces(prompt)])
    in_completion = page.lacks(list(statements.pieces(completion)))
    part, lacks = (prompt, in_prompt) if reads == "prompts" else (completion, in_completion)
    said = [piece for piece in statements.pieces(part) if _counts(piece, reads)]
    is_empty = bool(said) and len([piece for piece in lacks if _counts(piece, reads)]) == len(said)
    return in_prompt + in_completion, is_empty


def _counts(piece: Piece, reads: str) -> bool:
    return piece.kind not in ("name", "tools") and (reads == "prompts" or piece.role == "assistant")


def _decoded(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
