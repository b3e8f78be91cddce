"""Pictures of a comparison: what was gained against how far the policy moved, and how it got there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trl_ext.comparison.measure import gain
from trl_ext.report import curves

COLOURS = (
    "#3366cc", "#dc3912", "#109618", "#990099", "#ff9900", "#0099c6", "#dd4477", "#66aa00", "#8b4513", "#555555",
)  # fmt: skip
MARKERS = "oDs^vP*X<>"


def frontier(picture: Path, measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> None:
    """The first score, or else accuracy on held-out preferences, against the KL to the base; one line per loss.

    Args:
        picture: Where the PNG goes.
        measured: Rows of the runs (`trl_ext.comparison.measure`).
        base: Row of the base.
    """
    figure, (axis,) = _figure(1, 1, (7.2, 4.6))
    gained, heading = gain(measured)
    for loss, runs in _by_loss(measured).items():
        colour, marker = _look(loss, measured)
        placed = sorted((run for run in runs if run.get("kl")), key=lambda run: run["kl"]["value"])
        x, y = ([run[key]["value"] for run in placed] for key in ("kl", gained))
        x_errors, y_errors = (_errors(placed, key) for key in ("kl", gained))
        style = {"color": colour, "marker": marker, "label": loss, "linewidth": 1, "capsize": 2, "markersize": 6}
        axis.errorbar(x, y, xerr=x_errors, yerr=y_errors, **style)
        if len(runs) > 1:
            for run in placed:
                place, label = (run["kl"]["value"], run[gained]["value"]), run["name"].removeprefix(f"{loss}-")
                axis.annotate(label, place, (5, -10), textcoords="offset points", fontsize=7)
    if base.get(gained):
        axis.plot(0, base[gained]["value"], color="black", marker="x", linestyle="none", label="base")
    axis.set_xlabel("KL to the base, nats per completion")
    axis.set_ylabel(heading)
    axis.legend(frameon=False, fontsize=9)
    _save(figure, picture)


def movement(picture: Path, runs: dict[str, Path], measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> None:
    """Training on common axes, in units that no beta scales, and the length of completions.

    Args:
        picture: Where the PNG goes.
        runs: Each run's `metrics.jsonl`, by its name.
        measured: Rows of the runs.
        base: Row of the base.
    """
    figure, (gap, chosen, rejected, length) = _figure(2, 2, (9.6, 6.4))
    for run in measured:
        path = runs.get(run["name"])
        series = curves.read(path) if path is not None and path.exists() else {}
        if not {"logps/chosen", "logps/rejected"} <= series.keys():
            continue
        steps, of_chosen = series["logps/chosen"]
        of_rejected = series["logps/rejected"][1]
        between = [one - other for one, other in zip(of_chosen, of_rejected, strict=True)]
        colour = _colour(run["name"], measured)
        for axis, values in ((gap, between), (chosen, of_chosen), (rejected, of_rejected)):
            moved = [value - values[0] for value in values]
            axis.plot(steps, moved, color=colour, linewidth=0.8, alpha=0.25)
            axis.plot(steps, _smooth(moved), color=colour, linewidth=1.6, label=run["name"])
    for axis, title in (
        (gap, "chosen less rejected, nats since the first step"),
        (chosen, "log-prob of chosen, nats since the first step"),
        (rejected, "log-prob of rejected, nats since the first step"),
    ):
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("optimizer step", fontsize=8)
    lengths = {"base": base.get("length")} | {run["name"]: run.get("length") for run in measured}
    lengths = {name: found["value"] for name, found in lengths.items() if found}
    colours = ["black", *(_colour(run["name"], measured) for run in measured)]
    length.barh(list(lengths), list(lengths.values()), color=colours[: len(lengths)], height=0.6)
    length.invert_yaxis()
    length.set_title("tokens per completion", fontsize=10, loc="left")
    handles, names = gap.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, frameon=False, fontsize=8, ncols=min(len(names), 6), loc="outside lower center")
    _save(figure, picture)


def _smooth(values: list[float], width: int = 5) -> list[float]:
    """Each value's mean with its neighbours, `width` in all where there are as many."""
    half = width // 2
    windows = [values[max(i - half, 0) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _errors(runs: Sequence[dict[str, Any]], key: str) -> list[list[float]]:
    """Lengths of the error bars below and above, as matplotlib takes them."""
    figures = [run[key] for run in runs]
    below = [figure["value"] - (figure["low"] if figure["low"] is not None else figure["value"]) for figure in figures]
    above = [
        (figure["high"] if figure["high"] is not None else figure["value"]) - figure["value"] for figure in figures
    ]
    return [below, above]


def _by_loss(measured: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in measured:
        found.setdefault(run["loss"], []).append(run)
    return found


def _look(loss: str, measured: Sequence[dict[str, Any]]) -> tuple[str, str]:
    number = list(_by_loss(measured)).index(loss)
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _colour(name: str, measured: Sequence[dict[str, Any]]) -> str:
    return COLOURS[[run["name"] for run in measured].index(name) % len(COLOURS)]


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Figure, picture: Path) -> None:
    figure.savefig(picture, dpi=120)
