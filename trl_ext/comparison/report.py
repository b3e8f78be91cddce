"""Everything a comparison leaves: its page, pictures and table, in one directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl_ext.comparison import page, pictures

PAGE, TABLE, FRONTIER, MOVEMENT = "report.html", "comparison.csv", "frontier.png", "movement.png"


def write(
    directory: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    base: dict[str, Any],
    runs: dict[str, Path],
    facts: Sequence[str],
) -> Path:
    """Write the page with its pictures, and the table.

    Args:
        directory: Where they go.
        title: Of the page.
        rows: Of the runs (`trl_ext.comparison.measure`).
        base: Row of the base.
        runs: Directory of each run by its name.
        facts: How it was made, a sentence each.

    Returns:
        The page.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shown = []
    if any(row.get("kl") for row in rows):
        pictures.frontier(directory / FRONTIER, rows, base)
        shown.append(
            (
                "What it gained, how far it moved",
                "Up is better, left is nearer to the base; bars are 95 % intervals. A line joins the runs of one loss.",
                directory / FRONTIER,
            )
        )
    pictures.movement(directory / MOVEMENT, {name: run / "metrics.jsonl" for name, run in runs.items()}, rows, base)
    shown.append(
        (
            "How it got there",
            "The answers of each batch, as they are trained on. Where only the difference counts both may fall; chosen answers "
            "that fall far mean the policy moves to ones in neither. A run is missing here if its loss reads no reference and "
            "no other run saw the same batches.",
            directory / MOVEMENT,
        )
    )
    page.write(directory / PAGE, title, rows, base, shown, facts)
    page.write_csv(directory / TABLE, rows)
    return directory / PAGE
