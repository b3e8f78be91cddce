"""Write the result of a tournament as a table and in sentences, for the page and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl_ext.comparison.tournament import rate_of
from trl_ext.support import terminal
from trl_ext.support.counts import are, count
from trl_ext.support.intervals import format_estimate

STRENGTH = "strength, log-odds"


def table(record: Mapping[str, Any]) -> dict[str, Any]:
    """Headings and rows of the matrix of win rates in per cent, with the strengths; the strongest first.

    A run without a finite strength stands where its share of won comparisons puts it.
    """
    names = sorted(record["names"], key=lambda name: -_points(record, name))
    rows = []
    for row in names:
        cells = ["" if row == column else _per_cent(rate_of(record, row, column)) for column in names]
        rows.append([row, *cells, _strength(record, row)])
    return {"headings": ["win rate, %", *names, STRENGTH], "rows": rows}


def sentences(record: Mapping[str, Any]) -> list[str]:
    """How to read the table, and what it does not show."""
    reference = record["reference"]
    found = [
        f"Judge: {record['judge']}. A cell is the win rate of the row against the column; a tie counts one half.",
        f"Strength: Bradley–Terry, in log-odds against {reference} (0), with 95 % intervals. A strength of s wins against "
        f"{reference} with probability 1/(1 + exp(−s)).",
        *record["notes"],
    ]
    if bias := record["position_bias"]:
        found.append(
            f"Position bias: the other order of the answers gave another verdict on {_per_cent(bias)} % of the questions."
        )
    if record["usage"]:
        found += record["usage"]["sentences"]
    elif n := sum(game["unclear"] for game in record["games"]):
        found.append(f"{count(n, 'comparisons')} {are(n)} left out: the judge gave no score.")
    return found


def for_terminal(record: Mapping[str, Any]) -> Any:
    """The table for a terminal."""
    content = table(record)
    made = terminal.plain_table()
    for number, heading in enumerate(content["headings"]):
        made.add_column(heading, justify="right" if number else "left")
    for row in content["rows"]:
        made.add_row(*row)
    return made


def _points(record: Mapping[str, Any], name: str) -> float:
    """The mean win rate against the others."""
    rates = [rate.value for other in record["names"] if other != name and (rate := rate_of(record, name, other))]
    return sum(rates) / len(rates) if rates else 0.0


def _per_cent(estimate: Any) -> str:
    if estimate is None:
        return "—"
    figure = estimate if isinstance(estimate, dict) else estimate._asdict()
    return format_estimate({key: value and 100 * value for key, value in figure.items()}, "{:.0f}")


def _strength(record: Mapping[str, Any], name: str) -> str:
    estimate = record["strengths"][name]
    return "not finite" if estimate is None else format_estimate(estimate, "{:+.2f}")
