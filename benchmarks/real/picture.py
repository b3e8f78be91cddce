"""Draw success on the task against KL, and accuracy on real preferences against KL."""

from pathlib import Path
from typing import Any

from benchmarks.real import summary
from benchmarks.real.cells import BASE

STYLES = {
    "dpo": ("DPO", "tab:blue", "D"),
    "ipo": ("IPO", "tab:green", "^"),
    "simpo": ("SimPO", "tab:brown", "P"),
    "kto": ("KTO", "tab:purple", "v"),
    "orpo": ("ORPO", "tab:cyan", "<"),
    "sft": ("SFT on the best", "0.45", "X"),
    "ppo": ("PPO", "tab:red", "o"),
    "online": ("online DPO", "tab:orange", "s"),
}
"""Label, colour and marker of every method."""


def draw(found: dict[str, dict[str, Any]], picture: Path) -> None:
    """Draw two panels; bars are 95 % intervals, and the grey band is that of the base."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from trl_ext.report.axes import tidy

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    base = found[BASE]
    for name, record in summary.runs(found, ["short"]).items():
        _point(left, name, record["task"]["kl"], record["task"]["success"])
    _band(left, base["task"]["success"])
    for name, record in summary.runs(found, ["hh"]).items():
        accuracy = summary.preferences(record, base).accuracy
        _point(right, name.removeprefix("hh-"), record["pairs"]["kl"], accuracy)
    right.axhline(0.5, color="0.6", linewidth=1, label="base")
    for axis, title in (
        (left, "held-out answers of at most 20 words"),
        (right, "accuracy on held-out real preferences"),
    ):
        tidy(axis)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("KL to the base, nats per completion", fontsize=9)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_xlim(left=0)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(picture, dpi=130)


def _point(axis: Any, name: str, kl: dict[str, float], value: dict[str, float]) -> None:
    label, colour, marker = STYLES[name]
    axis.errorbar(
        [kl["value"]],
        [value["value"]],
        xerr=_bars(kl),
        yerr=_bars(value),
        color=colour,
        marker=marker,
        linestyle="none",
        label=label,
    )


def _bars(number: dict[str, float]) -> list[list[float]]:
    return [[number["value"] - number["low"]], [number["high"] - number["value"]]]


def _band(axis: Any, number: dict[str, float]) -> None:
    axis.axhspan(number["low"], number["high"], color="0.9", label="base")
    axis.axhline(number["value"], color="0.6", linewidth=1)
