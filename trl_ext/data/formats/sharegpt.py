"""Read ShareGPT data: a conversation column with from/value (or role/content) turns.

Pairs have the conversation so far plus one chosen and one rejected turn. Labelled completions are the last turn of the
conversation. LLaMA-Factory documents the same columns.
"""

from __future__ import annotations

from trl_ext.data.formats.match import Match
from trl_ext.data.formats.messages import as_messages, merge_neighbours
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, Sample

NAME = "sharegpt"
TITLE = "ShareGPT conversations"
NEEDS = "conversations or messages, with chosen and rejected turns or with a label"

CONVERSATION = ("conversations", "messages", "conversation", "dialogue", "dialog", "trajectory")
EARLIER = ("context", "history")
"""Columns that are the whole prompt if none of `QUESTION` is beside them, and else something else."""
QUESTION = ("prompt", "question", "query", "instruction", "input")


def match(sample: Sample) -> Match | None:
    earlier = () if any(sample.kind(name) == "text" for name in QUESTION) else EARLIER
    column = next((c for c in (*CONVERSATION, *earlier) if sample.kind(c) == "messages"), None)
    if column is None or (sample.has("chosen", "rejected") and sample.kind("prompt") is not None):
        return None
    extra = ("system",) if sample.kind("system") == "text" else ()
    if sample.has("chosen", "rejected"):
        # Completions that are whole conversations need no conversation column: that is another format.
        if not all(_is_one_turn(row.get(name)) for row in sample.rows for name in ("chosen", "rejected")):
            return None
        columns, paired, label = (column, *extra, "chosen", "rejected"), True, None
    elif (label := sample.label()) is not None and "completion" not in sample.columns:
        columns, paired = (column, *extra), False
    else:
        return None
    return Match(
        format=NAME,
        title=TITLE,
        read=_read_pair if paired else _read_single,
        columns=columns,
        paired=paired,
        conversational=True,
        label=label,
    )


def _is_one_turn(value: object) -> bool:
    return not isinstance(value, list) or len(value) <= 1


def _read_pair(row: Row, notes: set[Note]) -> Row:
    prompt = _turns(row, notes)
    chosen, rejected = row["chosen"], row["rejected"]
    if chosen is None or rejected is None:
        raise Drop(Reason.NULL)
    completions = (as_messages(chosen, "assistant", notes), as_messages(rejected, "assistant", notes))
    if len(prompt) > 1 and prompt[-1:] in completions:  # the conversation column includes its last turn
        prompt = prompt[:-1]
    return {"prompt": prompt, "chosen": completions[0], "rejected": completions[1]}


def _read_single(row: Row, notes: set[Note]) -> Row:
    return {"completion": _turns(row, notes)}


def _turns(row: Row, notes: set[Note]) -> list:
    value = next((row[c] for c in (*CONVERSATION, *EARLIER) if row.get(c) is not None), None)
    if value is None:
        raise Drop(Reason.NULL)
    messages = as_messages(value, "user", notes)
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return merge_neighbours(messages, notes)
