"""Formats of preference data, recognised from column names and a sample of rows.

A format is one file with ``NAME``, ``TITLE``, ``NEEDS`` and ``match(sample) -> Match | None``, listed in `FORMATS`.

Files: ``sample`` holds the rows looked at, ``match`` the way to read all others, ``messages`` reads message lists of any
spelling, ``labels`` the spellings of labels, ``prompt_boundary`` separates prompts from completions, ``row_outcome`` lists why
rows are dropped and what is noted about them. ``inner`` reads the prompt of formats that only name or compare completions,
``pairing`` chooses which of many completions are compared, ``history`` and ``parallel_turns`` read earlier turns.
"""

from __future__ import annotations

import dataclasses

from trl_ext.data.formats import (
    alpaca,
    compared,
    hh,
    named_pair,
    openai,
    orca,
    ranked,
    sharegpt,
    swift,
    trl_types,
    ultrafeedback,
)
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.sample import LABELS, Row, Sample

# The first that matches is used, so the more specific formats come before TRL's own columns.
FORMATS = (openai, named_pair, swift, compared, ranked, sharegpt, ultrafeedback, hh, orca, alpaca, trl_types)

NAMES = tuple(sorted(module.NAME for module in FORMATS))
CHOICES = ("auto", *NAMES)

# NAMED: the columns that error messages list. READ: every column that some format reads. PASSED: columns that are handed to
# TRL unchanged.
NAMED = (
    *("prompt", "chosen", "rejected", "completion", *LABELS),
    *("conversations", "messages", "conversation", *orca.SYSTEM, "question", "query"),
    *("instruction", "input", "output", "outputs", "history"),
    *(*compared.NAMED, *ranked.NAMED),
)
READ = tuple(
    dict.fromkeys(
        (
            *(*NAMED, *sharegpt.CONVERSATION, *sharegpt.EARLIER, *orca.QUESTION),
            *(*openai.READ, *swift.READ, *named_pair.READ, *compared.READ, *ranked.READ),
        )
    )
)
PASSED = ("images", "image", "tools", "chat_template_kwargs", "margin", "gold")

__all__ = ["CHOICES", "FORMATS", "NAMED", "NAMES", "PASSED", "READ", "Match", "Row", "Sample", "recognise"]


def recognise(sample: Sample, name: str = "auto") -> Match | None:
    """The first format that fits, or the format `name` if it fits; `None` otherwise."""
    for module in FORMATS:
        if name in ("auto", module.NAME) and (match := module.match(sample)) is not None:
            return dataclasses.replace(match, encoded=tuple(c for c in match.columns if c in sample.encoded))
    return None
