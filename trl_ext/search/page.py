"""Write the result of a search as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_ext.report import html
from trl_ext.search import pictures
from trl_ext.search.result import FINISHED, Number, Row, frontier
from trl_ext.search.settings import Settings
from trl_ext.support.counts import count
from trl_ext.support.intervals import format_estimate
from trl_ext.support.messages import plain

CAPTION = (
    "Higher is better; further left is nearer to the base. The line joins the trials that no other one beats. The dotted line is the "
    "largest KL of a result. Grey: trials that were stopped early, at their last measurement, which has fewer prompts."
)
LEGEND = (
    "± is half the width of the 95 % interval; asymmetric intervals are written (from–to). Shaded: the best trial.",
    "The best of many trials was chosen by these numbers, so its own number is too high on average. Measure the trained result on "
    "other data before you rely on it.",
)
IMPORTANCES = (
    "Importance: how far the settings of the best quarter of the finished trials differ from those of all (PED-ANOVA), at equal KL, as "
    "shares of all settings."
)


def write(
    page: Path,
    title: str,
    summary: Sequence[str],
    command: str | None,
    found: Sequence[Row],
    base: Number | None,
    best: Row | None,
    importances: Mapping[str, float],
    settings: Settings,
    measure: str,
    facts: Sequence[str],
) -> None:
    """Write the page.

    Args:
        page: The HTML file.
        title: Its heading.
        summary: The result in sentences.
        command: Trains the result.
        found: The trials.
        base: What the base measures.
        best: The best trial.
        importances: Of each setting; empty if there are too few trials.
        settings: Of the search.
        measure: Name of the measure.
        facts: How trials were compared, in sentences.
    """
    drawn = {f"{measure} against KL": pictures.of_frontier(found, base, best, settings.max_kl, measure)}
    if importances:
        drawn["importance of the settings"] = pictures.of_importances(importances)
    html.write(
        page,
        "trl_ext.search",
        title=title,
        summary=summary,
        command=command,
        caption=f"{CAPTION} {IMPORTANCES if importances else ''}".strip(),
        pictures=drawn,
        finished=finished(found, base, best, measure),
        others=others(found, measure),
        without=f"{count(sum(each.state != FINISHED for each in found), 'trials')} without a result",
        legend=LEGEND,
        facts=facts,
    )


def finished(found: Sequence[Row], base: Number | None, best: Row | None, measure: str) -> dict[str, Any]:
    """Headings and cells of the finished trials: the base first, then the trials by their measure."""
    keys = _keys(found)
    on_it = {each.number for each in frontier(found, base)}
    rows = [] if base is None else [["base", format_estimate(base, "{:.3f}"), "0", "", *("" for _ in keys), ""]]
    for each in sorted((each for each in found if each.state == FINISHED), key=lambda each: -each.value["value"]):
        cells = [
            each.name,
            format_estimate(each.value, "{:.3f}"),
            format_estimate(each.kl, "{:.2f}"),
            "yes" if each.number in on_it else "",
            *(_value(each.settings.get(key)) for key in keys),
            f"{each.seconds:.0f}" if each.seconds else "",
        ]
        rows.append([{"text": cell, "is_best": best is not None and each.number == best.number} for cell in cells])
    return {"headings": ["trial", measure, "KL to the base, nats", "on the frontier", *keys, "seconds"], "rows": rows}


def others(found: Sequence[Row], measure: str) -> dict[str, Any]:
    """Headings and cells of the trials without a result, in order."""
    keys = _keys(found)
    rows = []
    for each in found:
        if each.state == FINISHED:
            continue
        last = [*each.rungs.values()][-1:]
        value, kl = (f"{last[0][key]['value']:.3f}" if last else "" for key in ("value", "kl"))
        step = f"{each.steps:,} of {each.max_steps:,}" if each.steps else ""
        rows.append(
            [
                each.name,
                each.state,
                step,
                value,
                kl,
                *(_value(each.settings.get(key)) for key in keys),
                each.error or "",
            ]
        )
    return {"headings": ["trial", "state", "step", f"last {measure}", "last KL", *keys, "why"], "rows": rows}


def _keys(found: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for each in found for key in each.settings))


def _value(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else plain(value)
