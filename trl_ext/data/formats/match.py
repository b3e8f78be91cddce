"""Describe how to read every row of a dataset whose format was recognised, and read one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trl_ext.data.formats import content_parts
from trl_ext.data.formats.messages import as_messages
from trl_ext.data.formats.pairing import DEFAULT, Pairing
from trl_ext.data.formats.prompt_boundary import join_pair, join_single, split_texts
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, decode


@dataclass(frozen=True)
class Match:
    """How to read a dataset.

    Attributes:
        format: Name of the format.
        title: Its name in a sentence.
        read: Function from a row to its raw ``chosen`` and ``rejected``, or ``completion``, and ``prompt`` if there is
            one: text, or messages of any spelling.
        columns: The columns that `read` reads.
        paired: True for pairs, False for completions with a label.
        conversational: True for messages, False for plain text.
        label: Column of the labels, if not paired.
        verdicts: {label as written in the data: is it desirable}.
        encoded: Columns that hold messages as JSON or as a Python literal.
        scored: Function from a row to its completions, each with a score (higher is better), if they are to be compared. `read`
            then takes the row with two of them as ``chosen`` and ``rejected``. `None` where rows are single examples.
        has_scores: False if the scores only say which completion is better, so that no margin applies to them.
        has_many: True if rows may have more than two completions.
        pairing: Which of the scored completions are compared.
        lifted: {column that is handed to TRL: path of its values inside another column}; see `trl_ext.data.column_paths`.
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
    scored: Callable[[Row], list[tuple[Any, float]]] | None = None
    has_scores: bool = False
    has_many: bool = False
    pairing: Pairing = DEFAULT
    lifted: dict[str, str] = field(default_factory=dict)

    @property
    def cuts_text(self) -> bool:
        """True if there is no prompt but what the texts of chosen and rejected have in common."""
        return self.paired and not self.conversational and "prompt" not in self.columns

    @property
    def outputs(self) -> tuple[str, ...]:
        """The columns of TRL's type, without the label."""
        return ("prompt", "chosen", "rejected") if self.paired else ("prompt", "completion")

    def pairs(self, row: Row) -> tuple[list[Row], int]:
        """The rows that `apply` reads, one for each pair of scored completions, and the number of pairs left out.

        Raises:
            Drop: No two completions of the row can be compared.
        """
        if self.scored is None:
            return [row], 0
        row = decode(row, self.encoded)
        completions = self.scored(row)
        scores = [score for _, score in completions]
        if len(scores) < 2:
            raise Drop(Reason.TOO_FEW_OUTPUTS)
        kept, left_out = self.pairing.pairs(scores)
        if not kept:
            raise Drop(Reason.TIE if min(scores) == max(scores) else Reason.WITHIN_MARGIN)
        return [row | {"chosen": completions[i][0], "rejected": completions[j][0]} for i, j in kept], left_out

    def apply(self, row: Row, notes: set[Note]) -> Row:
        """One row of `pairs` in TRL's paired or unpaired type.

        Raises:
            Drop: The row cannot be used.
        """
        raw = self.read(decode(row, self.encoded), notes)
        names = self.outputs[1:]
        if any(raw.get(name) is None for name in names):
            raise Drop(Reason.NULL)
        if self.conversational:
            prompt = raw.get("prompt")
            prompt = None if prompt is None else as_messages(prompt, "user", notes)
            completions = [as_messages(raw[name], "assistant", notes) for name in names]
            parts = (join_pair if self.paired else join_single)(prompt, *completions, notes)
            parts = content_parts.alike(list(parts))
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
