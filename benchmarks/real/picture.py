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
    """Draw a panel for the task, and one for real preferences if any run trained on them; bars and the grey band are 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from trl_ext.report.axes import tidy

    base, on_preferences = found[BASE], summary.runs(found, ["hh"])
    figure = Figure(figsize=(10 if on_preferences else 5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, *rest = figure.subplots(1, 2 if on_preferences else 1, squeeze=False)[0]
    for name, record in summary.runs(found, ["short"]).items():
        _point(left, name, record["task"]["kl"], record["task"]["success"])
    _band(left, base["task"]["success"])
    left.set_title("held-out answers of at most 20 words", fontsize=10, loc="left")
    for right in rest:
        for name, record in on_preferences.items():
            accuracy = summary.preferences(record, base).accuracy
            _point(right, name.removeprefix("hh-"), record["pairs"]["kl"], accuracy)
        right.axhline(0.5, color="0.6", linewidth=1, label="base")
        right.set_title("accuracy on held-out real preferences", fontsize=10, loc="left")
    for axis in (left, *rest):
        tidy(axis)
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
