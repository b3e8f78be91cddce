"""Draw the pictures of a comparison: reward or accuracy against KL, and the log-ratios during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trl_ext.evaluation.results import gain
from trl_ext.report import metrics_file
from trl_ext.report.axes import DPI, ONE, ROUND, alone, marker, show_range, steps_below, tidy

COLOURS = (
    "#3366cc", "#dc3912", "#109618", "#990099", "#ff9900", "#0099c6", "#dd4477", "#66aa00", "#8b4513", "#555555",
)  # fmt: skip
MARKERS = "oDs^vP*X<>"
SIDES = ("chosen", "rejected")

Run = dict[str, Any]


def frontier(picture: Path, measured: Sequence[Run], base: Run) -> None:
    """Draw the first reward, or else accuracy on held-out preferences, against the KL to the base.

    Args:
        picture: Path of the PNG.
        measured: Rows of the runs (`trl_ext.evaluation.results`).
        base: Row of the base.
    """
    figure, (axis,) = _figure(1, 1, ONE)
    _frontier(axis, measured, base)
    _save(figure, picture)


def movement(picture: Path, runs: dict[str, Path], measured: Sequence[Run], base: Run) -> None:
    """Draw the log-ratios of all runs during training, which no beta scales, and the length of completions.

    Args:
        picture: Path of the PNG.
        runs: Each run's `metrics.jsonl`, by its name.
        measured: Rows of the runs.
        base: Row of the base.
    """
    figure, axes = _figure(2, 2, (2 * ONE[0], 2 * ONE[1]))
    for axis, draw in zip(axes, _panels(runs, measured, base).values(), strict=True):
        draw(axis)
    _save(figure, picture)


def movement_panels(runs: dict[str, Path], measured: Sequence[Run], base: Run) -> dict[str, bytes]:
    """The panels of `movement` as PNGs of their own, by title."""
    return {title: alone(draw) for title, draw in _panels(runs, measured, base).items()}


def _frontier(axis: Axes, measured: Sequence[Run], base: Run) -> None:
    gained, heading = gain(measured)
    for loss, runs in _by_loss(measured).items():
        colour, marker = _look(loss, measured)
        placed = sorted((run for run in runs if run.get("kl")), key=lambda run: run["kl"]["value"])
        x, y = ([run[key]["value"] for run in placed] for key in ("kl", gained))
        x_errors, y_errors = (_errors(placed, key) for key in ("kl", gained))
        style = {"color": colour, "marker": marker, "label": loss, "linestyle": "none", "capsize": 2, "markersize": 6}
        axis.errorbar(x, y, xerr=x_errors, yerr=y_errors, elinewidth=1, **style)
        for same_seed in _groups(placed, "seed").values():  # other seeds are repetitions, not a line
            points = [(run["kl"]["value"], run[gained]["value"]) for run in same_seed]
            if len(points) > 1:
                axis.plot(*zip(*points, strict=True), color=colour, linewidth=1, alpha=0.5)
        if len({(run.get("beta"), run.get("learning_rate"), run.get("steps")) for run in runs}) > 1:
            for run in placed:
                place, label = (run["kl"]["value"], run[gained]["value"]), run["name"].removeprefix(f"{loss}-")
                axis.annotate(label, place, (5, -11), textcoords="offset points", fontsize=8)
    if base.get(gained):
        style = {"color": "black", "marker": "x", "linestyle": "none", "linewidth": 1, "capsize": 2}
        axis.errorbar(0, base[gained]["value"], yerr=_errors([base], gained), label="base", **style)
    drawn = [run for run in (*measured, base) if run.get("kl") and run.get(gained)]
    show_range(axis, [v for run in drawn for v in _ends(run[gained])], 0.1)
    widest = max((end for run in drawn for end in _ends(run["kl"])), default=0)
    axis.set_xlim(min(-0.03 * widest, *(_ends(run["kl"])[0] for run in drawn), -0.01), max(widest * 1.05, 0.2))
    axis.set_xlabel("KL to the base, nats per completion", fontsize=10)
    axis.set_ylabel(heading, fontsize=10)
    axis.figure.legend(frameon=False, fontsize=10, loc="outside lower center", ncols=5, columnspacing=1)


def _panels(runs: dict[str, Path], measured: Sequence[Run], base: Run) -> dict[str, Callable[[Axes], None]]:
    """Functions that draw the panels, by title."""
    found = log_ratios(runs, {run["name"]: run["seed"] for run in measured})
    between = {
        name: (steps, [one - other for one, other in zip(*ratios, strict=True)])
        for name, (steps, ratios) in found.items()
    }
    sides = [{name: (steps, ratios[i]) for name, (steps, ratios) in found.items()} for i in range(len(SIDES))]
    return {
        f"log-ratio of {what}, nats": partial(
            _lines, lines=lines, title=f"log-ratio of {what}, nats", measured=measured
        )
        for what, lines in zip(("chosen − rejected", *SIDES), (between, *sides), strict=True)
    } | {"tokens per completion": partial(_lengths, measured=measured, base=base)}


def _lines(axis: Axes, lines: dict[str, tuple[list, list]], title: str, measured: Sequence[Run]) -> None:
    for name, (steps, values) in lines.items():
        style = {"color": _colour(name, measured), "linewidth": 1.6, "markersize": 4}
        axis.plot(steps, values, marker=marker(len(steps)), label=name, **style)
    axis.set_title(title, fontsize=11, loc="left")
    axis.axhline(0, color="black", linewidth=0.6)
    steps_below(axis, max((steps[-1] for steps, _ in lines.values()), default=1), 10)
    show_range(axis, [0.0, *(value for _, values in lines.values() for value in values)], 1.0)
    if lines:
        axis.legend(frameon=False, fontsize=9)


def _lengths(axis: Axes, measured: Sequence[Run], base: Run) -> None:
    lengths = {"base": base.get("length")} | {run["name"]: run.get("length") for run in measured}
    lengths = {name: found["value"] for name, found in lengths.items() if found}
    colours = ["black" if name == "base" else _colour(name, measured) for name in lengths]
    axis.barh(range(len(lengths)), list(lengths.values()), color=colours, height=0.6)
    axis.set_yticks(range(len(lengths)), list(lengths))
    axis.invert_yaxis()
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=ROUND))
    axis.set_title("tokens per completion", fontsize=11, loc="left")
    if not lengths:
        axis.set_visible(False)


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


def _errors(runs: Sequence[Run], key: str) -> list[list[float]]:
    """Lengths of the error bars below and above, in matplotlib's form."""
    ends = [(run[key]["value"], *_ends(run[key])) for run in runs]
    return [[value - low for value, low, _ in ends], [high - value for value, _, high in ends]]


def _ends(figure: Run) -> tuple[float, float]:
    """Ends of the interval of a number, or the number itself."""
    return tuple(figure["value"] if figure[end] is None else figure[end] for end in ("low", "high"))


def _groups(runs: Sequence[Run], key: str) -> dict[Any, list[Run]]:
    found: dict[Any, list[Run]] = {}
    for run in runs:
        found.setdefault(run.get(key), []).append(run)
    return found


def _by_loss(measured: Sequence[Run]) -> dict[str, list[Run]]:
    return _groups(measured, "loss")


def _look(loss: str, measured: Sequence[Run]) -> tuple[str, str]:
    number = list(_by_loss(measured)).index(loss)
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _colour(name: str, measured: Sequence[Run]) -> str:
    return COLOURS[[run["name"] for run in measured].index(name) % len(COLOURS)]


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis in axes:
        tidy(axis, 10)
    return figure, axes


def _save(figure: Figure, picture: Any) -> None:
    figure.savefig(picture, dpi=DPI, format="png")
