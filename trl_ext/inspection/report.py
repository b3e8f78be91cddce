"""Collect the report of `trl-ext data` in one object, to print it or write it as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from trl_ext.data import row_kinds
from trl_ext.data.examples import Examples
from trl_ext.data.excerpt import excerpt
from trl_ext.inspection import layout, rendering, thoughts
from trl_ext.inspection.check import Checked
from trl_ext.inspection.findings import EXAMPLES, Finding
from trl_ext.inspection.layout import Layout
from trl_ext.inspection.rendering import Part
from trl_ext.inspection.special_tokens import text_tokenizer
from trl_ext.inspection.tokenise import has_images


@dataclass
class Shown:
    """Some rows of which the same is true.

    Attributes:
        name: Name for scripts.
        sentence: Completes "12 pairs: …".
        rows: Number of rows; `None` for notes on pairs that were split into labelled completions, whose sentences hold it.
        share: Share of all rows, or of the examples that are kept.
        examples: The first few rows: number in the source and excerpt.
    """

    name: str
    sentence: str
    rows: int | None
    share: float | None
    examples: list[tuple[int, str]]


@dataclass
class Report:
    """The report of `trl-ext data`.

    Attributes:
        statements: Sentences about how the data was read.
        partial: A sentence about how much of the data was checked, if not all of it; else empty.
        classes: What the rows of the source are, each recognised on its own.
        read: Why rows were dropped when they were read, and notes on the others.
        checked: The examples as tokens.
        found: Findings about the tokenised examples.
        layout: Tokens of padded and packed batches; `None` if the trainer uses TRL's own batches.
        example: Position of the example that is shown.
        rendered: The sequences of that example.
        special_tokens: The special tokens of the tokenizer, as text.
        is_compared: True if messages were compared with their tokens; false for plain text.
    """

    statements: list[str]
    partial: str
    classes: list[Shown]
    read: list[Shown]
    checked: Checked
    found: list[Shown]
    layout: Layout | None
    example: int
    rendered: dict[str, list[Part]]
    special_tokens: list[str]
    is_compared: bool

    def to_dict(self) -> dict[str, Any]:
        """The report as numbers, strings and lists, for JSON."""
        findings = self.checked.findings
        labels, method = findings.labels(), findings.facts.method
        return {
            "statements": self.statements,
            "partial": self.partial or None,
            "kind": "prompts" if method.reads == "prompts" else method.name,
            "examples": len(findings.facts),
            "kept": findings.kept,
            "max_length": findings.facts.limits.max_length,
            "classes": [_plain(shown) for shown in self.classes],
            "read": [_plain(shown) for shown in self.read],
            "found": [_plain(shown) for shown in self.found],
            "labels": None if labels is None else {"desirable": labels[0], "undesirable": labels[1]},
            "thoughts": thoughts.counts(findings.facts),
            "lengths": {name: lengths._asdict() for name, lengths in findings.lengths().items()},
            "layout": None if self.layout is None else self.layout._asdict(),
            "example": {
                "row": int(self.checked.numbers[self.example]),
                "sequences": {name: [part._asdict() for part in parts] for name, parts in self.rendered.items()},
            },
        }


def describe(
    rows: Dataset,
    given: Examples,
    checked: Checked,
    args: Any,
    processing_class: Any,
    partial: str,
    statements: list[str],
) -> Report:
    """Report on training data that was read and turned into tokens.

    Args:
        rows: The rows of the source.
        given: The examples made from them.
        checked: The examples as tokens.
        args: The trainer's configuration.
        processing_class: Tokenizer or processor.
        partial: A sentence about how much of the data was checked, if not all of it; else empty.
        statements: Sentences about how the data was read.
    """
    if has_images(given.train):
        partial = f"{partial} The examples have images, so only the first {len(checked.numbers)} are checked.".strip()
    facts = checked.findings.facts
    kept = np.flatnonzero(~facts.is_dropped)
    example = int(kept[0]) if len(kept) else 0
    return Report(
        statements=statements,
        partial=partial,
        classes=[
            Shown("class", text, number, number / len(rows), _raw(rows, numbers))
            for text, (number, numbers) in row_kinds.count_kinds(rows).items()
        ],
        read=_read(given.report, rows),
        checked=checked,
        found=[_shown(finding, checked, given.train) for finding in checked.findings.found],
        layout=layout.compare(facts, checked.tokenised, args),
        example=example,
        rendered=rendering.render(facts, checked.tokenised, example, text_tokenizer(processing_class)),
        special_tokens=list(text_tokenizer(processing_class).all_special_tokens),
        is_compared="nothing_left" in facts.flags,
    )


def _read(report: Any, rows: Dataset) -> list[Shown]:
    """Reasons and notes of a report with some rows of each; data without preferences has none."""
    known = {text: dropped.rows for text, dropped in getattr(report, "dropped", {}).items()} | getattr(
        report, "notes", {}
    )
    return [
        Shown("read", text, number := known.get(text), number and number / len(rows), _raw(rows, numbers))
        for text, numbers in getattr(report, "examples", {}).items()
    ]


def _raw(rows: Dataset, numbers: tuple[int, ...]) -> list[tuple[int, str]]:
    """Excerpts of rows of the source, without their images."""
    text = rows.select_columns([name for name in rows.column_names if name not in ("images", "image")])
    return [(number, excerpt(text[number])) for number in numbers]


def _shown(finding: Finding, checked: Checked, train: Dataset) -> Shown:
    facts = checked.findings.facts
    of = len(facts) if finding.name == "dropped" else checked.findings.kept
    text = train.select_columns([name for name in train.column_names if name not in ("images", "image")])
    places = finding.rows[:EXAMPLES].tolist()
    lacking = checked.findings.details.get(finding.name, {})
    return Shown(
        finding.name,
        finding.sentence,
        len(finding.rows),
        len(finding.rows) / of,
        [
            (
                int(checked.numbers[place]),
                (f"lacks {lacking[place]}: " if place in lacking else "") + excerpt(text[place]),
            )
            for place in places
        ],
    )


def _plain(shown: Shown) -> dict[str, Any]:
    plain = dataclasses.asdict(shown)
    plain["examples"] = [{"row": row, "excerpt": text} for row, text in shown.examples]
    return plain
