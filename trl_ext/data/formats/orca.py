"""Read Orca data (prompts of arXiv:2306.02707): system, question, chosen, rejected. `system` may be absent or empty.

`history` holds earlier turns; as text, and without another question, it is the question itself.
"""

from __future__ import annotations

from trl_ext.data.formats.history import earlier_turns
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, Sample

NAME = "orca"
TITLE = "Orca columns"
NEEDS = "question (or prompt with system), chosen, rejected; or with completion and label"

SYSTEM = ("system", "system_prompt")
QUESTION = ("prompt", "question", "query", "input", "history", "post", "problem")


def match(sample: Sample) -> Match | None:
    paired = sample.has("chosen", "rejected")
    label = sample.label()
    if not paired and (label is None or "completion" not in sample.columns):
        return None
    completions = ("chosen", "rejected") if paired else ("completion",)
    system = next((column for column in SYSTEM if sample.kind(column) == "text"), None)
    question = next((column for column in QUESTION if sample.kind(column) == "text"), None)
    # A prompt without a system text is TRL's own type, and `instruction` with `input` is Alpaca's.
    history = "history" if question != "history" and sample.kind("history") in ("list", "messages") else None
    if question is None or (question == "prompt" and system is None and history is None):
        return None
    if question == "input" and "instruction" in sample.columns:
        return None
    # The completions may be messages: one assistant turn, or a conversation that repeats the question.
    kinds = {sample.kind(completion) for completion in completions} - {None}
    if not kinds or not kinds <= {"text", "messages"} or (question == "prompt" and kinds != {"text"}):
        return None
    return Match(
        format=NAME,
        title=TITLE,
        read=_read,
        columns=tuple(column for column in (system, history, question, *completions) if column),
        paired=paired,
        conversational=True,
        label=None if paired else label,
    )


def _read(row: Row, notes: set[Note]) -> Row:
    system = next((row[column] for column in SYSTEM if row.get(column)), None)
    asked = next((column for column in QUESTION if row.get(column) is not None), None)
    if asked is None:
        raise Drop(Reason.NULL)
    if not isinstance(row[asked], str):
        raise Drop(Reason.NOT_TEXT)
    earlier = [] if asked == "history" else earlier_turns(row.get("history"), notes)
    prompt = [*earlier, {"role": "user", "content": row[asked]}]
    if isinstance(system, str) and system.strip():
        prompt.insert(0, {"role": "system", "content": system})
    completions = {name: row[name] for name in ("chosen", "rejected", "completion") if name in row}
    return {"prompt": prompt, **completions}
