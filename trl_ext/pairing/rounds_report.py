"""Print the rounds as a table: what each was trained on, and what its model is like."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_ext.pairing.rounds import Rounds
from trl_ext.support import terminal
from trl_ext.support.counts import count
from trl_ext.support.intervals import format_estimate


def show(console: Any, records: Sequence[dict[str, Any]], directory: Path, rounds: Rounds) -> None:
    """Print the table and the places.

    Args:
        console: Prints.
        records: As `rounds.carry_out` returns them: the model before the first round, then each round.
        directory: Of all rounds.
        rounds: What was repeated.
    """
    console.print()
    console.print(table(records))
    for line in _legend(records, rounds):
        console.print(line, style="dim", markup=False)
    console.print()
    run = directory / f"round-{len(records) - 1}" / "run"
    console.print(f"rounds    {directory}", markup=False)
    console.print(f"adapter   {run}", markup=False)
    if (name := rounds.recipe.get("dataset_name")) is not None and not rounds.recipe.get("eval_size"):
        console.print(f"evaluate  trl-ext eval {shlex.quote(str(run))} --dataset {shlex.quote(name)}", markup=False)


def table(records: Sequence[dict[str, Any]]) -> Any:
    """A row per model: before the first round, and after each."""
    judged = any(record.get("win_rate") for record in records)
    headings = ("sampled score", "rows", "margin", "held-out score", "KL from base", "tokens")
    made = terminal.table("after round", *headings, *(("win rate",) if judged else ()))
    for record in records:
        samples, after = record.get("samples"), record["after"] or {}
        cells = [
            format_estimate(samples and samples["score"], "{:.3f}"),
            f"{samples['rows']:,}" if samples else "—",
            format_estimate(samples and samples["margin"], "{:.3f}"),
            format_estimate(after.get("score"), "{:.3f}"),
            format_estimate(after.get("kl"), "{:.2f}"),
            format_estimate(after.get("tokens"), "{:.1f}"),
        ]
        if judged:
            cells.append(format_estimate(record.get("win_rate"), "{:.2f}"))
        made.add_row(str(record["round"] or "start"), *cells)
    return made


def _legend(records: Sequence[dict[str, Any]], rounds: Rounds) -> list[str]:
    lines = [
        "Sampled score, rows and margin: of the completions that the round was trained on, from the model before it."
    ]
    if (after := records[-1]["after"]) is not None:
        lines.append(
            f"Held-out score, KL and tokens: of the model after the round, from a completion of each of "
            f"{count(after['n'], 'prompts')} of {rounds.held_out.name}. The KL is the mean of log π − log π_base in nats per completion."
        )
    lines.append(
        f"Intervals of 95 %. Reference of the training: {'the base' if rounds.reference == 'base' else 'the model before the round'}."
    )
    return lines
