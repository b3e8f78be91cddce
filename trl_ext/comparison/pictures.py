"""Draw the pictures of a comparison: reward or accuracy against KL, and the log-ratios during training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trl_ext.comparison.results import gain
from trl_ext.report import metrics_file

COLOURS = (
    "#3366cc", "#dc3912", "#109618", "#990099", "#ff9900", "#0099c6", "#dd4477", "#66aa00", "#8b4513", "#555555",
)  # fmt: skip
MARKERS = "oDs^vP*X<>"
SIDES = ("chosen", "rejected")


def frontier(picture: Path, measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> None:
    """Draw the first reward, or else accuracy on held-out preferences, against the KL to the base; one line per loss.

    Args:
        picture: Path of the PNG.
        measured: Rows of the runs (`trl_ext.comparison.results`).
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
        style = {"color": "black", "marker": "x", "linestyle": "none", "linewidth": 1, "capsize": 2}
        axis.errorbar(0, base[gained]["value"], yerr=_errors([base], gained), label="base", **style)
    axis.set_xlabel("KL to the base, nats per completion")
    axis.set_ylabel(heading)
    axis.legend(frameon=False, fontsize=9)
    _save(figure, picture)


def movement(picture: Path, runs: dict[str, Path], measured: Sequence[dict[str, Any]], base: dict[str, Any]) -> None:
    """Draw the log-ratios of all runs during training, which no beta scales, and the length of completions.

    Args:
        picture: Path of the PNG.
        runs: Each run's `metrics.jsonl`, by its name.
        measured: Rows of the runs.
        base: Row of the base.
    """
    figure, (gap, chosen, rejected, length) = _figure(2, 2, (9.6, 6.4))
    for name, (steps, ratios) in log_ratios(runs, {run["name"]: run["seed"] for run in measured}).items():
        colour = _colour(name, measured)
        between = [one - other for one, other in zip(*ratios, strict=True)]
        for axis, values in ((gap, between), *zip((chosen, rejected), ratios, strict=True)):
            axis.plot(steps, values, color=colour, linewidth=1.6, label=name)
    for axis, what in ((gap, "chosen minus rejected"), (chosen, "chosen"), (rejected, "rejected")):
        axis.set_title(f"log π − log π_base, {what}, nats", fontsize=10, loc="left")
        axis.set_xlabel("optimizer step", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.axhline(0, color="black", linewidth=0.6)
    lengths = {"base": base.get("length")} | {run["name"]: run.get("length") for run in measured}
    lengths = {name: found["value"] for name, found in lengths.items() if found}
    colours = ["#999999", *(_colour(run["name"], measured) for run in measured)]
    length.barh(list(lengths), list(lengths.values()), color=colours[: len(lengths)], height=0.6)
    length.invert_yaxis()
    length.set_title("tokens per completion", fontsize=10, loc="left")
    handles, names = gap.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, frameon=False, fontsize=8, ncols=min(len(names), 6), loc="outside lower center")
    _save(figure, picture)


def log_ratios(
    runs: dict[str, Path], seeds: dict[str, int]
) -> dict[str, tuple[list[int], tuple[list[float], list[float]]]]:
    """Logged steps, and log π − log π_base of chosen and of rejected completions in nats, by name of the run.

    A run whose loss reads no reference logs log π alone. Its log π_base is taken from another run that saw the same
    examples at the same steps; without such a run it is left out.
    """
    logged = {name: _logged(path, seeds.get(name)) for name, path in runs.items() if path.exists()}
    base = {
        key: [logps - ratio for logps, ratio in zip(record["logps"], record["log_ratio"], strict=True)]
        for records in logged.values()
        for key, record in records.items()
        if record["log_ratio"]
    }
    found = {}
    for name, records in logged.items():
        ratios = [
            record["log_ratio"] or [logps - its for logps, its in zip(record["logps"], base[key], strict=True)]
            for key, record in records.items()
            if record["log_ratio"] or key in base
        ]
        if ratios and len(ratios) == len(records):
            found[name] = ([step for _, step, _ in records], tuple(map(list, zip(*ratios, strict=True))))
    return found


def _logged(metrics: Path, seed: int | None) -> dict[tuple, dict[str, list[float]]]:
    """Log-probabilities and log-ratios logged by a run, by seed, step and tokens seen. Equal keys mean equal examples."""
    records = {}
    for record in metrics_file.read(metrics):
        of_both = {
            kind: [record[f"{kind}/{side}"] for side in SIDES if isinstance(record.get(f"{kind}/{side}"), float)]
            for kind in ("logps", "log_ratio")
        }
        if len(of_both["logps"]) == len(SIDES):
            records[seed, record["step"], record.get("num_tokens")] = of_both
    return records


def _errors(runs: Sequence[dict[str, Any]], key: str) -> list[list[float]]:
    """Lengths of the error bars below and above, in matplotlib's form."""
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
