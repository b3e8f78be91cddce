"""Read pairs whose completions have other names: LLaMA-Factory v1 (`chosen_messages`), Argilla (`chosen_response`), and more.

The two are read as chosen and rejected. The format that then fits reads the rest of the row.
"""

from __future__ import annotations

import dataclasses

from trl_ext.data.formats.inner import match_pair, renamed
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.sample import Sample

NAME = "named_pair"
TITLE = "a better and a worse completion under other names"
NEEDS = "chosen_response and rejected_response (or chosen_messages, preferred_response, …), and a prompt of any format"

PAIRS = (
    ("chosen_messages", "rejected_messages"),
    *(
        (f"chosen_{word}", f"rejected_{word}")
        for word in ("response", "answer", "completion", "output", "text", "conversation")
    ),
    *((f"{word}_chosen", f"{word}_rejected") for word in ("response", "answer", "completion", "output", "text")),
    *(
        (f"preferred_{word}", f"{other}_{word}")
        for word in ("response", "answer", "output")
        for other in ("rejected", "dispreferred")
    ),
    ("preferred_output", "non_preferred_output"),
    ("preferred", "dispreferred"),
    ("accepted", "rejected"),
    *((f"accepted_{word}", f"rejected_{word}") for word in ("response", "answer", "output")),
    *((f"better_{word}", f"worse_{word}") for word in ("response", "answer", "output", "completion")),
    *((f"winning_{word}", f"losing_{word}") for word in ("response", "answer", "output", "completion")),
    *((f"{word}_w", f"{word}_l") for word in ("response", "y", "answer")),
    # lvwerra/stack-exchange-paired: `response_j` has more upvotes than `response_k`.
    ("response_j", "response_k"),
)
READ = tuple(dict.fromkeys(name for names in PAIRS for name in names))


def match(sample: Sample) -> Match | None:
    if sample.has("chosen") or (sample.has("completion") and sample.label() is not None):
        return None
    for names in PAIRS:
        if not all(sample.kind(name) in ("text", "messages") for name in names):
            continue
        pairs = [(row, tuple(map(row.get, names))) for row in sample.rows]
        inner = match_pair(sample, names, pairs)
        if inner is not None:
            title = f"{names[0]} and {names[1]}"
            return dataclasses.replace(renamed(inner, names), format=NAME, title=title)
    return None
