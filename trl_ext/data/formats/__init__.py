"""Formats of preference data, recognised from column names and a sample of rows.

A format is one file with ``NAME``, ``TITLE``, ``NEEDS`` and ``match(sample) -> Match | None``, named in
`FORMATS`.
"""

from __future__ import annotations

import dataclasses

from trl_ext.data.formats import alpaca, compared, hh, orca, sharegpt, trl_types, ultrafeedback
from trl_ext.data.formats.match import LABELS, Match, Row, Sample

# The first that matches is taken: what a more particular format says of itself comes before TRL's own
# columns.
FORMATS = (compared, sharegpt, ultrafeedback, hh, orca, alpaca, trl_types)

NAMES = tuple(sorted(module.NAME for module in FORMATS))
CHOICES = ("auto", *NAMES)

# Columns by the names they are called in sentences, every name that a format looks at, and columns that travel along
# untouched to TRL.
NAMED = (
    *("prompt", "chosen", "rejected", "completion", *LABELS),
    *(*sharegpt.CONVERSATION, *orca.SYSTEM, "question", "query"),
    *("instruction", "input", "output", "outputs", "history"),
    *compared.NAMED,
)
READ = tuple(dict.fromkeys((*NAMED, *compared.READ)))
PASSED = ("images", "image", "tools", "chat_template_kwargs")

__all__ = ["CHOICES", "FORMATS", "NAMED", "NAMES", "PASSED", "READ", "Match", "Row", "Sample", "recognise"]


def recognise(sample: Sample, name: str = "auto") -> Match | None:
    """The first format that fits, or the one called `name` if that fits; else None."""
    for module in FORMATS:
        if name in ("auto", module.NAME) and (match := module.match(sample)) is not None:
            return dataclasses.replace(match, encoded=tuple(c for c in match.columns if c in sample.encoded))
    return None
