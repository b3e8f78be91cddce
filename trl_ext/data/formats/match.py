"""What a format recognises: the rows it looked at, and how to read all the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trl_ext.data.formats.messages import as_messages, decoded, is_blank, kind
from trl_ext.data.formats.outcome import Drop, Note, Reason
from trl_ext.data.formats.prompts import join_pair, join_single, split_texts

Row = dict[str, Any]
LABELS = ("label", "kto_tag")


class Sample:
    """A dataset's column names and some of its rows, spread over its length.

    Attributes:
        columns: Names of all columns.
        rows: The sampled rows, encoded messages decoded.
        encoded: Columns whose texts all spell out messages. One such text among others is an answer that
            happens to be JSON, and stays text.
    """

    def __init__(self, columns: Sequence[str], rows: list[Row]) -> None:
        self.columns = tuple(columns)
        texts = {name: [row[name] for row in rows if isinstance(row.get(name), str)] for name in columns}
        self.encoded = tuple(
            name for name, values in texts.items() if values and all(decoded(text) is not None for text in values)
        )
        self.rows = [decode(row, self.encoded) for row in rows]

    def kind(self, column: str) -> str | None:
        """What the column holds in the sampled rows: messages if one of them has some, else text, …"""
        kinds = {kind(row.get(column)) for row in self.rows} if column in self.columns else set()
        return next((k for k in ("messages", "text", "list", "other") if k in kinds), None)

    def has(self, *columns: str) -> bool:
        return all(column in self.columns for column in columns)

    def label(self) -> str | None:
        return next((column for column in LABELS if column in self.columns), None)


@dataclass(frozen=True)
class Match:
    """How to read a dataset.

    Attributes:
        format: Name of the format.
        title: What it is called in a sentence.
        read: From a row to raw ``chosen`` and ``rejected``, or ``completion``, and ``prompt`` if there is
            one: text or messages of any spelling.
        columns: The columns that `read` looks at.
        paired: Pairs, or single answers with a label.
        conversational: Messages, or plain text.
        label: Column of the labels, if not paired.
        verdicts: {label as spelt: is it desirable}.
        encoded: Columns that spell out messages as JSON or as a Python literal.
    """

    format: str
    title: str
    read: Callable[[Row, set[Note]], Row]
    columns: tuple[str, ...]
    paired: bool
    conversational: bool
    label: str | None = None
    verdicts: dict[Any, bool] = field(default_factory=dict)
    encoded: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of TRL's type, labels apart."""
        return ("prompt", "chosen", "rejected") if self.paired else ("prompt", "completion")

    def apply(self, row: Row, notes: set[Note]) -> Row:
        """One row in TRL's paired or unpaired type.

        Raises:
            Drop: it cannot be used.
        """
        raw = self.read(decode(row, self.encoded), notes)
        names = self.outputs[1:]
        if any(raw.get(name) is None for name in names):
            raise Drop(Reason.NULL)
        if self.conversational:
            prompt = raw.get("prompt")
            prompt = None if prompt is None else as_messages(prompt, "user", notes)
            answers = [as_messages(raw[name], "assistant", notes) for name in names]
            parts = (join_pair if self.paired else join_single)(prompt, *answers, notes)
        else:
            if not all(isinstance(raw[name], str) for name in names):
                raise Drop(Reason.NOT_TEXT)
            parts = self._plain(raw)
        result = dict(zip(self.outputs, parts, strict=True))
        if not self.paired:
            result["label"] = self._verdict(row.get(self.label))
        return result

    def _plain(self, raw: Row) -> tuple[str, ...]:
        if "prompt" not in raw:
            return split_texts(raw["chosen"], raw["rejected"])
        if raw["prompt"] is None:
            raise Drop(Reason.NULL)
        if not isinstance(raw["prompt"], str):
            raise Drop(Reason.NOT_TEXT)
        return tuple(raw[name] for name in self.outputs)

    def _verdict(self, value: Any) -> bool:
        if value is None or value != value:
            raise Drop(Reason.NULL)
        if isinstance(value, (list, dict)) or value not in self.verdicts:
            raise Drop(Reason.BAD_LABEL)
        return self.verdicts[value]


def decode(row: Row, columns: tuple[str, ...]) -> Row:
    """The row with the messages that these columns spell out; texts that spell out none are left."""
    if not columns:
        return row
    values = {name: decoded(row[name]) for name in columns if isinstance(row.get(name), str)}
    return {**row, **{name: value for name, value in values.items() if value is not None}}


def remark(row: Row, paired: bool, conversational: bool, notes: set[Note]) -> None:
    """Add what can be said without a tokenizer about a row of TRL's type: empty and identical parts."""
    empty = is_blank if conversational else _is_blank_text
    if empty(row["prompt"]):
        notes.add(Note.EMPTY_PROMPT)
    if not paired:
        if empty(row["completion"]):
            notes.add(Note.EMPTY_COMPLETION)
        return
    if row["chosen"] == row["rejected"]:
        notes.add(Note.IDENTICAL)
    if empty(row["chosen"]):
        notes.add(Note.EMPTY_CHOSEN)
    if empty(row["rejected"]):
        notes.add(Note.EMPTY_REJECTED)


def _is_blank_text(text: str) -> bool:
    return not text.strip()
