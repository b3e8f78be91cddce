"""Print what a set of pairs is like, and what to do with it."""

from __future__ import annotations

from typing import Any

from trl_ext.pairing.output import Output
from trl_ext.support.counts import are, count, were
from trl_ext.support.intervals import format_estimate


def sentences(provenance: dict[str, Any]) -> list[str]:
    """The report, a line each."""
    found, selection = provenance["found"], provenance["selection"]
    lines = [_rows(found, selection), _scores(found, selection), _lengths(found, selection)]
    lines += filter(
        None, [_length_bias(found, selection), _repeated(found), _truncated(found, selection), _unscored(found)]
    )
    return lines


def show(console: Any, provenance: dict[str, Any], output: Output, train: str = "") -> None:
    """Print the report and the places.

    Args:
        console: Prints.
        provenance: As `make_pairs` returns it.
        output: Where it was written.
        train: The command that trains on the data; empty if there is none to suggest.
    """
    for line in sentences(provenance):
        console.print(line, markup=False)
    console.print()
    console.print(f"data        {output.named}", markup=False)
    console.print(f"provenance  {output.provenance}", markup=False)
    if train:
        console.print(f"train       {train}", markup=False)


def _rows(found: dict[str, Any], selection: dict[str, Any]) -> str:
    with_rows, prompts = found["prompts_with_rows"], count(found["prompts"], "prompts")
    if selection["labelled"]:
        what = f"{count(found['rows'], 'labelled completions')} ({found['desirable']:,} desirable) from {with_rows:,} of {prompts}."
    else:
        what = f"{count(found['rows'], 'pairs')} from {with_rows:,} of {prompts}."
    without = "; ".join(f"{reason} ({n:,})" for reason, n in found["without"].items())
    left = found["prompts"] - with_rows
    return f"{what} {count(left, 'prompts')} without: {without}." if left else what


def _scores(found: dict[str, Any], selection: dict[str, Any]) -> str:
    parts = [] if found["score"] is None else [f"mean {_number(found['score'])}"]
    if found["spread"] is not None:
        parts.append(f"standard deviation within a prompt {_number(found['spread'])}")
        parts.append(f"best minus worst {_number(found['range'])}")
    if found["margin"] is not None:
        parts.append(f"{' minus '.join(_sides(selection))} {_number(found['margin'])}")
    name = "Strength in log-odds" if found["score"] is None else "Score"
    return f"{name}: {', '.join(parts)}."


def _lengths(found: dict[str, Any], selection: dict[str, Any]) -> str:
    better, worse = _sides(selection)
    tokens = found["tokens"]
    text = f"Tokens: {better} {_tokens(tokens['better'])}, {worse} {_tokens(tokens['worse'])}"
    return (
        f"{text}, difference {format_estimate(tokens['difference'], '{:+.1f}')}."
        if tokens["difference"]
        else f"{text}."
    )


def _length_bias(found: dict[str, Any], selection: dict[str, Any]) -> str:
    """A sentence if the interval of the difference excludes 0."""
    difference = found["tokens"]["difference"]
    if difference is None or difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return ""
    better, worse = _sides(selection)
    how = "longer" if difference["value"] > 0 else "shorter"
    return f"Length bias: {better} completions are {how} than {worse} ones of the same prompt. A loss can learn length from this data."


def _repeated(found: dict[str, Any]) -> str:
    n, total = found["repeated"], count(found["completions"], "completions")
    return (
        f"{n:,} of {total} ({n / found['completions']:.1%}) {'repeats' if n == 1 else 'repeat'} another one of the same prompt."
        if n
        else ""
    )


def _truncated(found: dict[str, Any], selection: dict[str, Any]) -> str:
    n = found["truncated"]
    if not n:
        return ""
    done = "used as they are" if selection["keep_truncated"] else "not used"
    return f"{count(n, 'completions')} reached `max_new_tokens` without an end and {were(n)} {done}."


def _unscored(found: dict[str, Any]) -> str:
    n = found["unscored"]
    return f"{count(n, 'completions')} {are(n)} without a score." if n else ""


def _sides(selection: dict[str, Any]) -> tuple[str, str]:
    return ("desirable", "undesirable") if selection["labelled"] else ("chosen", "rejected")


def _number(estimate: dict[str, float] | None) -> str:
    return format_estimate(estimate, "{:.3f}")


def _tokens(estimate: dict[str, float] | None) -> str:
    return format_estimate(estimate, "{:.1f}")
