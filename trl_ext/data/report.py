"""Report what was found in a dataset and how it was converted, in counts and sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from trl_ext.data.formats.pairing import ALL, Pairing
from trl_ext.data.template_choice import Style
from trl_ext.support.counts import are, count

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset, IterableDataset


@dataclass(frozen=True)
class Dropped:
    """Rows dropped for one reason: how many, and the number of the first, counted from 0."""

    rows: int
    first: int


@dataclass(frozen=True)
class Report:
    """Counts of one loaded split. Rows are pairs, or completions with a label.

    Attributes:
        source: A path, a name on the Hub, or "the given dataset".
        split: Name of the split, with its slice if one was given.
        format: Name of the recognised format; see ``formats.NAMES``.
        title: Name of the format in a sentence.
        done: What was recognised and how it was converted, as one sentence without counts.
        paired: True for pairs, False for completions with a label.
        conversational: True for messages, False for plain text.
        style: How the source holds the examples; see `trl_ext.data.template_choice`.
        rows_in: Rows read; `None` for a stream, whose rows are not counted.
        rows_out: Rows kept; `None` for a stream.
        rows_used: Rows of the source that the kept ones come from, which are fewer if a row gives several pairs.
        pairing: Which completions of a row are compared; `None` where a row has no more than two.
        left_out: Pairs that were left out because their scores are too close, of rows with other pairs.
        dropped: {reason: number of rows and the first}.
        notes: {note: number of kept rows it is true of}.
        examples: {reason or note: numbers of the first few rows it is true of, counted from 0}.
        duplicates: Kept rows that are identical to an earlier one; `None` for a stream, and for data with images, which are
            not compared.
        desirable: Completions with a positive label; `None` for pairs, and for completions that have no label.
        undesirable: Completions with a negative label; `None` for pairs.
        ignored: Columns that were not read.
        earlier: Sentences about the pairs that labelled completions were made from.
        content: Hash of the kept rows in their order, independent of where and how they are stored; empty for a stream.
        kept: For each kept row, the number of its row in the source, counted from 0; `None` if every row was kept, and for a
            stream.
    """

    source: str
    split: str
    format: str
    title: str
    done: str
    paired: bool
    conversational: bool
    style: Style = "text"
    rows_in: int | None = None
    rows_out: int | None = None
    rows_used: int | None = None
    pairing: Pairing | None = None
    left_out: int = 0
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
        return "pairs" if self.paired else "completions"

    def sentences(self) -> list[str]:
        """The report as sentences. The first one says what the data is."""
        if self.rows_out is None:
            return [
                f"{self.where}: {self.done}. Streamed: rows that cannot be used are skipped without being counted.",
                *self._unread(),
            ]
        lines = [f"{self.where}: {self.done}, {count(self.rows_out, self.unit)}.", *self.earlier, *self._of_ranking()]
        for reason, dropped in self.dropped.items():
            lines.append(
                f"{dropped.rows:,} of {count(self.rows_in, 'rows')} dropped: {reason} (first: row {dropped.first:,})."
            )
        lines += [f"{count(n, self.unit)}: {note}." for note, n in self.notes.items()]
        if self.duplicates:
            lines.append(f"{count(self.duplicates, self.unit)}: identical to an earlier row.")
        if not self.paired and self.desirable is not None:
            lines.append(f"Labels: {self.desirable:,} desirable, {self.undesirable:,} undesirable.")
        return [*lines, *self._unread()]

    def _unread(self) -> list[str]:
        read = {
            "margin": "`trainer: reward` and losses such as `rpo` read `margin`",
            "gold": "`tpo` and `tpo_l` read `gold`",
        }
        readers = "; ".join(sentence for name, sentence in read.items() if name in self.ignored)
        only = f" ({readers})" if readers else ""
        return [f"Columns not used: {', '.join(self.ignored)}{only}."] if self.ignored else []

    def _of_ranking(self) -> list[str]:
        """How many pairs came of how many rows, if rows have many completions."""
        if self.pairing is None or self.rows_out is None or not self.paired:
            return []
        return [f"{pairs_of_rows(self.rows_out, self.rows_used, self.left_out, self.pairing)}."]

    def __str__(self) -> str:
        return "\n".join(self.sentences())


class Loaded(NamedTuple):
    """A dataset of TRL's paired or unpaired type, and its report."""

    dataset: Dataset | IterableDataset
    report: Report


def pairs_of_rows(pairs: int, rows: int, left_out: int, pairing: Pairing) -> str:
    """How pairs were made of rows with many completions, as a sentence without its end."""
    which = "every two completions of a row" if pairing.how == ALL else "the best and the worst completion of each row"
    settings = [
        f"`dataset_pairs: {pairing.how}`",
        *([f"`dataset_pair_margin: {pairing.margin:g}`"] * bool(pairing.margin)),
    ]
    sentence = f"{count(pairs, 'pairs')} of {count(rows, 'rows')}: {which} ({', '.join(settings)})"
    if not left_out:
        return sentence
    close = f"whose scores differ by {pairing.margin:g} or less" if pairing.margin else "with equal scores"
    return f"{sentence}; {count(left_out, 'pairs')} {close} {are(left_out)} left out"


def place(source: str, split: str) -> str:
    """``place("pairs.jsonl", "train")`` is "pairs.jsonl (train)"."""
    return f"{source} ({split})" if split else source
