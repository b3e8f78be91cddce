"""Print the record of a judged run."""

from __future__ import annotations

from typing import Any

from trl_ext.support import terminal
from trl_ext.support.counts import are, count
from trl_ext.support.intervals import format_estimate

SHOWN = 2
"""Prompts whose answers are printed."""
LONGEST = 400
"""Characters of an answer or a prompt that are printed."""


def show(console: Any, records: list[dict[str, Any]]) -> None:
    """Print the records of one run, one per judge."""
    first = records[0]
    console.print(
        f"\n[bold]{first['run']}[/bold] against {first['base']} on {count(first['prompts']['n'], 'prompts')} of {first['prompts']['source']}"
    )
    console.print(_table(records))
    for record in records:
        for sentence in sentences(record, named=len(records) > 1):
            console.print(sentence, markup=False)
    if first["agreement"]:
        console.print(agreement_in_words(first), markup=False)
    _show_examples(console, first)
    console.print(_lengths(first), markup=False)
    console.print(f"Intervals: {first['intervals']}.", style="dim")


def _table(records: list[dict[str, Any]]) -> Any:
    table = terminal.table("judge", "win rate", "win", "tie", "loss", "unclear", "length-controlled")
    for record in records:
        counts = (f"{record[name]:,}" for name in ("wins", "ties", "losses", "unclear"))
        table.add_row(record["judge"], share(record["win_rate"]), *counts, share(record["length_controlled"]))
    return table


def sentences(record: dict[str, Any], *, named: bool = False) -> list[str]:
    """What the numbers mean, a sentence each.

    Args:
        record: Of one judge.
        named: Whether to begin with the judge's name.
    """
    found = [verdict(record)]
    if record["ties"] and record["decided"]:
        n = record["wins"] + record["losses"]
        found.append(f"Without ties, the run wins on {share(record['decided'])} of {count(n, 'prompts')}.")
    if record["equal"]:
        n = record["equal"]
        found.append(
            f"{count(n, 'prompts')} {are(n)} a tie because both answers are the same; the judge was not asked."
        )
    if (bias := record["position_bias"]) is not None:
        found.append(_position(bias, record["position_bias_to"]))
    if record["length_controlled_note"]:
        note = record["length_controlled_note"]
        who = " A is the run, B its base." if "A won" in note or "A lost" in note else ""
        found.append(f"No length-controlled win rate. {note}{who}")
    if record["usage"]:
        found += record["usage"]["sentences"]
    elif record["unclear"]:
        n = record["unclear"]
        found.append(f"{count(n, 'prompts')} {are(n)} left out: the judge gave no score.")
    return [f"{record['judge']}: {sentence}" for sentence in found] if named else found


def _position(bias: dict[str, Any], to: dict[str, int]) -> str:
    sides = [f"the answer read {side} on {count(to[side], 'prompts')}" for side in ("first", "second") if to[side]]
    favoured = f" The judge favoured {' and '.join(sides)}." if sides else ""
    return f"Position bias: the other order of the answers gave another verdict on {share(bias)} of the prompts.{favoured}"


def verdict(record: dict[str, Any]) -> str:
    """Whether the run is better than its base, by the interval of its win rate."""
    rate = record["win_rate"]
    if rate is None:
        return "No verdict is clear, so there is no win rate."
    shown = share(rate)
    if rate["low"] > 0.5:
        return f"The run wins against its base: win rate {shown}."
    if rate["high"] < 0.5:
        return f"The run loses against its base: win rate {shown}."
    return f"No difference is shown: the interval of the win rate, {shown}, contains 50 %."


def agreement_in_words(record: dict[str, Any]) -> str:
    """How far the judge of a record and the second judge agree."""
    found = record["agreement"]
    kappa = f" Cohen's κ {format_estimate(found['kappa'], '{:.2f}')}." if found["kappa"] else ""
    agreed = f"The judges agree on {share(found['agreed'])} of {count(found['n'], 'prompts')}." if found["n"] else ""
    return " ".join(filter(None, [agreed + kappa, found["note"]]))


def _lengths(record: dict[str, Any]) -> str:
    tokens, ended, sampling = record["tokens"], record["ended"], record["sampling"]
    return (
        f"Tokens per answer: base {format_estimate(tokens['base'], '{:.1f}')}, tuned {format_estimate(tokens['tuned'], '{:.1f}')}. "
        f"Share that ended within {sampling['max_new_tokens']:,} tokens: base {ended['base']['value']:.0%}, tuned "
        f"{ended['tuned']['value']:.0%}. Temperature {sampling['temperature']:g}, seed {sampling['seed']}."
    )


def _show_examples(console: Any, record: dict[str, Any]) -> None:
    differing = [each for each in record["examples"] if each["base"] != each["tuned"]]
    console.print()
    for example in differing[:SHOWN]:
        prompt = example["prompt"] if isinstance(example["prompt"], str) else example["prompt"][-1]["content"]
        console.print(_cut(prompt), style="bold", markup=False)
        for label, text in (("base", example["base"]), ("tuned", example["tuned"])):
            console.print(terminal.wrap(f"  {label:8}{_cut(text)}", indent=10), markup=False)
        console.print(f"  {'verdict':8}{example['verdict']}", markup=False)
        console.print()


def _cut(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} …"


def share(estimate: dict[str, Any] | None) -> str:
    """A share in per cent with its interval."""
    if estimate is None:
        return "—"
    per_cent = {name: None if value is None else 100 * value for name, value in estimate.items()}
    return f"{format_estimate(per_cent, '{:.1f}')} %"
