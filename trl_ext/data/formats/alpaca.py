"""Read Alpaca data: instruction and input are the prompt; the completions are chosen and rejected, or a list of outputs.

A list of outputs is sorted from best to worst. `system` and `history` (earlier turns) are read too.
"""

from __future__ import annotations

from trl_ext.data.formats.history import earlier_turns
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, Sample

NAME = "alpaca"
TITLE = "Alpaca columns"
NEEDS = "instruction (and input), with chosen and rejected, or output as a list, or output with a label"


def match(sample: Sample) -> Match | None:
    if sample.kind("instruction") != "text" or sample.kind("prompt") is not None:
        return None
    beside = tuple(column for column in ("input", "system", "history") if sample.kind(column) is not None)
    output = next((column for column in ("output", "completion", "outputs") if column in sample.columns), None)
    label = None
    scored = None
    if sample.has("chosen", "rejected"):
        completions, paired = ("chosen", "rejected"), True
    elif output is not None and sample.kind(output) == "list":
        completions, paired, scored = (output,), True, _in_order
    elif output is not None and sample.kind(output) == "text" and (label := sample.label()) is not None:
        completions, paired = (output,), False
    else:
        return None
    return Match(
        format=NAME,
        title=TITLE,
        read=_read_pair if paired else _read_single,
        columns=("instruction", *beside, *completions),
        paired=paired,
        conversational=True,
        label=label,
        scored=scored,
        has_scores=scored is not None,
        has_many=scored is not None,
    )


def _read_pair(row: Row, notes: set[Note]) -> Row:
    return {"prompt": _prompt(row, notes), "chosen": row["chosen"], "rejected": row["rejected"]}


def _in_order(row: Row) -> list[tuple[object, float]]:
    """Outputs and their scores: the negative of their places in the list."""
    outputs = _output(row)
    if not isinstance(outputs, list):
        raise Drop(Reason.NULL if outputs is None else Reason.TOO_FEW_OUTPUTS)
    return [(output, -float(place)) for place, output in enumerate(outputs) if output is not None]


def _read_single(row: Row, notes: set[Note]) -> Row:
    return {"prompt": _prompt(row, notes), "completion": _output(row)}


def _output(row: Row) -> object:
    return next((row[c] for c in ("output", "completion", "outputs") if row.get(c) is not None), None)


def _prompt(row: Row, notes: set[Note]) -> list[dict]:
    instruction, extra = row["instruction"], row.get("input")
    if instruction is None:
        raise Drop(Reason.NULL)
    if not isinstance(instruction, str) or not isinstance(extra, str | None):
        raise Drop(Reason.NOT_TEXT)
    messages = []
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        messages.append({"role": "system", "content": system})
    messages += earlier_turns(row.get("history"), notes)
    question = "\n".join(text for text in (instruction, extra) if text and text.strip())
    return [*messages, {"role": "user", "content": question}]
