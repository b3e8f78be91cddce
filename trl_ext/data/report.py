"""What was found in a dataset and what was done to it, in counts and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, IterableDataset


@dataclass(frozen=True)
class Dropped:
    """Rows that could not be used for one reason: how many, and the first one's number, counted from 0."""

    rows: int
    first: int


@dataclass(frozen=True)
class Report:
    """Counts of one loaded split. Rows are pairs, or single answers with a label.

    Attributes:
        source: Where it came from: a path, a Hub name, or "the dataset given".
        split: Name of the split, with a slice if one was asked for.
        format: Name of the format recognised; see ``formats.NAMES``.
        title: What the format is called in a sentence.
        done: What was recognised and what was made of it, one sentence without counts.
        paired: Pairs, or single answers with a label.
        conversational: Messages, or plain text.
        rows_in: Rows read; None for a stream, whose rows nobody has counted.
        rows_out: Rows kept; None for a stream.
        dropped: {reason: how many and the first}.
        notes: {remark: number of kept rows it holds for}.
        examples: {reason or remark: numbers of the first few rows it holds for, counted from 0}.
        duplicates: Kept rows that repeat an earlier one word for word; None for a stream or with images,
            which are not compared.
        desirable: Answers with a positive label; None for pairs.
        undesirable: Answers with a negative label; None for pairs.
        ignored: Columns that were not read.
        earlier: Sentences on the pairs that the answers were made of.
        content: A hash of the kept rows in their order, the same wherever and however they are stored; empty
            for a stream.
        kept: The number of the row, counted from 0, that each row kept comes from; None where every row became one,
            or for a stream.
    """

    source: str
    split: str
    format: str
    title: str
    done: str
    paired: bool
    conversational: bool
    rows_in: int | None = None
    rows_out: int | None = None
    dropped: dict[str, Dropped] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[int, ...]] = field(default_factory=dict)
    duplicates: int | None = None
    desirable: int | None = None
    undesirable: int | None = None
    ignored: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    content: str = ""
    kept: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def where(self) -> str:
        return place(self.source, self.split)

    @property
    def unit(self) -> str:
        return "pairs" if self.paired else "answers"

    def sentences(self) -> list[str]:
        """The report as sentences, the first saying what the data is."""
        if self.rows_out is None:
            return [f"{self.where}: {self.done}; a stream: rows that cannot be used are skipped uncounted."]
        lines = [f"{self.where}: {self.done}, {count(self.rows_out, self.unit)}.", *self.earlier]
        for reason, dropped in self.dropped.items():
            lines.append(
                f"{count(dropped.rows, 'rows')} dropped of {self.rows_in:,}: {reason} (first: row {dropped.first:,})."
            )
        lines += [f"{count(n, self.unit)}: {note}." for note, n in self.notes.items()]
        if self.duplicates:
            lines.append(f"{count(self.duplicates, self.unit)}: the same as an earlier row, word for word.")
        if not self.paired:
            lines.append(f"Labels: {self.desirable:,} desirable, {self.undesirable:,} undesirable.")
        if self.ignored:
            lines.append(f"Columns not used: {', '.join(self.ignored)}.")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.sentences())


class Loaded(NamedTuple):
    """A dataset of TRL's paired or unpaired type, and the report on it."""

    dataset: Dataset | IterableDataset
    report: Report


def place(source: str, split: str) -> str:
    """``place("pairs.jsonl", "train")`` is "pairs.jsonl (train)"."""
    return f"{source} ({split})" if split else source


def count(n: int, plural: str) -> str:
    """``count(1, "rows")`` is "1 row", ``count(2312, "pairs")`` is "2,312 pairs"."""
    return f"{n:,} {plural[:-1] if n == 1 else plural}"


def every(n: int, plural: str) -> str:
    """``every(1, "rows")`` is "the only row", ``every(2, "pairs")`` is "all 2 pairs"."""
    return f"the only {plural[:-1]}" if n == 1 else f"all {n:,} {plural}"


def are(n: int) -> str:
    """The verb after a count."""
    return "is" if n == 1 else "are"
