"""Draw training curves from `metrics.jsonl`: three large panels, and small ones for everything else that was logged."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trl_ext.report import axes, metrics_file
from trl_ext.report.panels import INSTEAD, PANELS, Panel

Series = dict[str, tuple[list[int], list[float]]]
"""Steps and values by the name of the metric."""

LARGE = ("margin", "log_ratio", "loss")
"""Keys of the large panels unless others are asked for."""

COLOURS = {"chosen": "tab:blue", "rejected": "tab:orange"}
WIDTH, TALL, SHORT = 11.0, 3.1, 1.75
"""Size of the picture and of its rows, in inches."""


class Start(NamedTuple):
    """The loss before the first update.

    Attributes:
        value: The loss.
        why: Where it comes from, for the legend.
    """

    value: float
    why: str


def read(path: Path) -> Series:
    """Read the series of a metrics file, numbers only. `log_ratio/margin` is chosen minus rejected."""
    series: Series = {}
    for record in map(metrics_file.with_margin, metrics_file.read(path)):
        for name, value in record.items():
            if isinstance(value, int | float):
                steps, values = series.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return series


def draw(metrics: Path, picture: Path, title: str, large: tuple[str, ...] = LARGE, start: Start | None = None) -> Path:
    """Draw all panels that have data into one PNG.

    Args:
        metrics: A run's `metrics.jsonl`.
        picture: Path of the PNG.
        title: Title above the panels.
        large: Keys of the large panels (`trl_ext.report.panels`); one without data is replaced or left out.
        start: The loss before the first update, if it is known; else the first logged loss is marked.
    """
    figure(read(metrics), title, large, start).savefig(picture, dpi=120)
    return picture


def figure(series: Series, title: str, large: tuple[str, ...] = LARGE, start: Start | None = None) -> Figure:
    """The figure that `draw` writes."""
    above, below = _chosen(series, large)
    across = _columns(len(below))
    rows = -(-len(below) // across) if below else 0
    made = Figure(figsize=(WIDTH, TALL * bool(above) + SHORT * rows + 0.5), layout="constrained")
    FigureCanvasAgg(made)
    made.suptitle(title, fontsize=12, x=0.01, ha="left")
    grid = made.add_gridspec(1 + rows, 12, height_ratios=[TALL if above else 0.01] + [SHORT] * rows)
    last = _last_step(series)
    for number, key in enumerate(above):
        wide = 12 // len(above)
        axis = made.add_subplot(grid[0, number * wide : (number + 1) * wide])
        _draw_large(axis, key, series, last, start)
    for number, key in enumerate(below):
        row, column, wide = number // across, number % across, 12 // across
        axis = made.add_subplot(grid[1 + row, column * wide : (column + 1) * wide])
        _draw_panel(axis, key, series, 8)
        axes.steps_below(axis, last, 8, is_named=number + across >= len(below))
    return made


def large_panels(series: Series, large: tuple[str, ...] = LARGE, start: Start | None = None) -> dict[str, bytes]:
    """The large panels of `figure` as PNGs of their own, by title; empty if nothing was logged."""
    last = _last_step(series)
    return {
        PANELS[key].title: axes.alone(partial(_draw_large, key=key, series=series, last=last, start=start))
        for key in _chosen(series, large)[0]
    }


def _draw_large(axis: Any, key: str, series: Series, last: int, start: Start | None) -> None:
    _draw_panel(axis, key, series, 10)
    axes.steps_below(axis, last, 10)
    if key == "loss":
        _mark_start(axis, start or _first_logged(series))


def _last_step(series: Series) -> int:
    return max((steps[-1] for steps, _ in series.values()), default=1)


def _chosen(series: Series, large: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Keys of the large and of the small panels with data."""
    known = [key for key, panel in PANELS.items() if _names(panel, series)]
    above = [key if key in known else INSTEAD.get(key) for key in large]
    above = [key for key in dict.fromkeys(above) if key in known]
    repeated = {"reward_margin"} if "margin" in above else set()
    return above, [key for key in known if key not in above and key not in repeated]


def _columns(panels: int) -> int:
    """Number of small panels in a row: 4 or 3, whichever leaves fewer gaps."""
    return min((4, 3), key=lambda n: -panels % n)


def _names(panel: Panel, series: Series) -> list[str]:
    return [name for each in panel.series for name in (each, f"eval_{each}") if name in series]


def _draw_panel(axis: Any, key: str, series: Series, size: float) -> None:
    panel = PANELS[key]
    names = _names(panel, series)
    for name in names:
        steps, values = series[name]
        is_dashed = name.startswith("eval_") and len(panel.series) > 1
        axis.plot(
            steps,
            values,
            label=_label(name, names),
            color=COLOURS.get(name.split("/")[-1]),
            linestyle="--" if is_dashed else "-",
            linewidth=1.6,
            marker=axes.marker(len(steps)),
            markersize=3.5,
        )
    axes.tidy(axis, size)
    axes.show_range(axis, (v for name in names for v in series[name][1]), *panel[2:])
    axis.set_title(panel.title, fontsize=size + 1, loc="left")
    if len(names) > 1:
        axis.legend(fontsize=size - 0.5, frameon=False)


def _mark_start(axis: Any, start: Start) -> None:
    """Draw the line of the loss before the first update."""
    axis.axhline(start.value, color="0.4", linewidth=1, linestyle=":", label=f"{start.value:.4g}: {start.why}")
    low, high = axis.get_ylim()
    margin = 0.04 * (high - low)
    axis.set_ylim(min(low, start.value - margin), max(high, start.value + margin))
    axis.legend(fontsize=9.5, frameon=False)


def _first_logged(series: Series) -> Start:
    steps, values = series.get("loss") or series["eval_loss"]
    return Start(values[0], f"first logged, at step {steps[0]}")


def _label(name: str, names: list[str]) -> str:
    """Label of a series within its panel: the quantity and the data, where the series differ in these."""
    stems = {each.removeprefix("eval_") for each in names}
    parts = [name.removeprefix("eval_").split("/")[-1].replace("_", " ")] if len(stems) > 1 else []
    if len({each.startswith("eval_") for each in names}) > 1:
        parts.append("held out" if name.startswith("eval_") else "training")
    return ", ".join(parts) or "training"
