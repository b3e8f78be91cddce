"""Draw the frontier of a search, and the importance of each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes

from trl_ext.report.axes import alone, show_range
from trl_ext.search.result import Number, Row, frontier

COLOURS = (
    "#3366cc",
    "#dc3912",
    "#109618",
    "#990099",
    "#ff9900",
    "#0099c6",
    "#dd4477",
    "#66aa00",
    "#8b4513",
    "#555555",
)
MARKERS = "oDs^vP*X<>"


def of_frontier(found: Sequence[Row], base: Number | None, best: Row | None, max_kl: float, measure: str) -> bytes:
    """A PNG of measure against KL: every finished trial, the frontier as a line, trials that were stopped in grey."""
    return alone(partial(_frontier, found=found, base=base, best=best, max_kl=max_kl, measure=measure))


def of_importances(importances: Mapping[str, float]) -> bytes:
    """A PNG with a bar per setting."""
    return alone(partial(_importances, importances=importances))


def _frontier(
    axis: Axes, found: Sequence[Row], base: Number | None, best: Row | None, max_kl: float, measure: str
) -> None:
    finished = [each for each in found if each.value]
    stopped = [[*each.rungs.values()][-1] for each in found if not each.value and each.rungs]
    if stopped:
        x, y = ([each[key]["value"] for each in stopped] for key in ("kl", "value"))
        axis.plot(x, y, linestyle="none", marker=".", color="#bbbbbb", markersize=6, label="stopped early")
    losses = list(dict.fromkeys(str(each.settings.get("loss", "")) for each in finished))
    for number, loss in enumerate(losses):
        own = [each for each in finished if str(each.settings.get("loss", "")) == loss]
        x, y = ([getattr(each, key)["value"] for each in own] for key in ("kl", "value"))
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 5}
        axis.plot(x, y, linestyle="none", label=loss or "trials", **style)
    on_it = frontier(found, base)
    points = [] if base is None else [(0.0, base["value"])]
    points += [(each.kl["value"], each.value["value"]) for each in on_it]
    if len(points) > 1:
        axis.plot(
            *zip(*points, strict=True),
            color="black",
            linewidth=0.8,
            alpha=0.6,
            drawstyle="steps-post",
            label="frontier",
        )
    if base is not None:
        axis.plot([0], [base["value"]], linestyle="none", marker="x", color="black", label="base")
    if best is not None:
        place = (best.kl["value"], best.value["value"])
        axis.plot(
            *zip(place, strict=True),
            linestyle="none",
            marker="o",
            markersize=11,
            fillstyle="none",
            color="black",
            label="best",
        )
    widest = max([max_kl, *(each.kl["value"] for each in finished), *(each["kl"]["value"] for each in stopped)])
    right = min(widest, 4 * max_kl)  # a policy that ran away would hide the others
    axis.set_xlim(-0.03 * right, 1.05 * right)
    axis.axvline(max_kl, color="black", linewidth=0.8, linestyle=":")
    values = [each.value["value"] for each in finished] + [each["value"]["value"] for each in stopped]
    show_range(axis, [*values, *([base["value"]] if base else [])], 0.1)
    axis.set_xlabel("KL to the base, nats per completion", fontsize=10)
    axis.set_ylabel(measure, fontsize=10)
    axis.figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=4, columnspacing=1)


def _importances(axis: Axes, importances: Mapping[str, float]) -> None:
    names = [*importances]
    axis.barh(range(len(names)), [importances[name] for name in names], color=COLOURS[0], height=0.6)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("importance", fontsize=10)
