"""Draw a KL audit: bias and variance of value and gradient for each cell."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.kl_audit import exact, step_report
from trl_ext.kl_audit.exact import Audit, Row
from trl_ext.rl import step_table
from trl_ext.rl.step_table import Step
from trl_ext.support.counts import count

COLOURS = {"k1": "tab:blue", "k2": "tab:orange", "k3": "tab:purple", "k3+": "tab:green"}
FILLS = {"green": "#bfe3c0", "yellow": "#f6e3a1", "red": "#f2b8b5"}
STYLES = {"reward": "-", "loss": "--"}

DRAWN = (
    ("k1", "reward", "token"),
    ("k1", "loss", "sequence"),
    ("k2", "reward", "token"),
    ("k2", "loss", "token"),
    ("k2", "loss", "sequence"),
    ("k3", "reward", "token"),
    ("k3", "loss", "sequence"),
)
"""Cells that are drawn. The omitted level of a pair looks much the same. k3+ has the value of k3 and the gradient of k2 in the loss."""


class Panel(NamedTuple):
    """One quantity of a `Row`; `right` is the value of an unbiased cell, `None` if there is none."""

    heading: str
    attribute: str
    is_of_value: bool
    right: float | None
    limits: tuple[float | None, float | None]


PANELS = (
    Panel("value: bias ÷ KL", "value_bias", True, 0.0, (None, None)),
    Panel("value: variance ÷ KL²", "value_variance", True, None, (None, None)),
    Panel("gradient: cosine with the true one", "cosine", False, 1.0, (-1.1, 1.4)),
    Panel("gradient: squared relative error", "squared_error", False, 0.0, (-0.5, 4.0)),
    Panel("gradient: variance ÷ |true|²", "gradient_variance", False, None, (None, None)),
)


def draw(picture: Path, sampled: Audit | None = None, title: str = "", step: Step | None = None) -> Path:
    """Draw the exact audit against the distance from the reference, a sampled one, and the table of optimizer steps.

    Args:
        picture: Path of the PNG.
        sampled: Audit of a run.
        title: Name of that run.
        step: That of a recipe, which is outlined in the table.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = 1 if sampled is None else 2
    whole = Figure(figsize=(20, 4.6 * lines + 4), layout="constrained")
    FigureCanvasAgg(whole)
    figure, below = whole.subfigures(2, 1, height_ratios=[4.6 * lines, 4])
    axes = figure.subplots(lines, len(PANELS), squeeze=False)
    for axis, placement in zip(below.subplots(1, 2), step_report.TITLES, strict=True):
        _steps(axis, placement, None if step is None else step_table.entry(step))
    audits = [exact.audit_exactly(distance) for distance in exact.DISTANCES]
    for axis, panel in zip(axes[0], PANELS, strict=True):
        _over_distance(axis, panel, audits)
    axes[0, 0].legend(fontsize=8, frameon=False)
    axes[0, -1].legend(fontsize=8, frameon=False)
    if sampled is not None:
        for axis, panel in zip(axes[1], PANELS, strict=True):
            _by_cell(axis, panel, sampled)
        axes[1, 0].set_xlabel(
            f"{title}: {count(sampled.n, 'completions')}, KL {sampled.kl:.2f} ± {sampled.kl_se:.2f}; bars: two standard errors",
            fontsize=8,
            loc="left",
        )
    for axis in axes.flatten():
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    whole.savefig(picture, dpi=100)
    return picture


def _over_distance(axis: Any, panel: Panel, audits: list[Audit]) -> None:
    """Draw exact lines against KL(π‖ref) of the small language."""
    drawn = [cell for cell in exact.CELLS if cell[0] != "k3+" and cell[1] == "reward"] if panel.is_of_value else DRAWN
    for cell in drawn:
        estimator, placement, level = cell
        rows = [next(row for row in audit.rows if row.cell == cell) for audit in audits]
        if panel.is_of_value:
            style, label = "-" if level == "token" else "--", f"{estimator}, {level} level"
        else:
            style = ":" if cell == ("k2", "loss", "token") else STYLES[placement]
            label = f"{estimator} in the {placement}, {level} level"
        axis.plot(
            [audit.kl for audit in audits],
            [getattr(row, panel.attribute) for row in rows],
            style,
            color=COLOURS[estimator],
            # wide below narrow, since two unbiased cells coincide
            linewidth=3.5 if estimator == "k1" and style == "-" else 1.6,
            label=label,
        )
    axis.set_title(f"exact {panel.heading}", fontsize=10, loc="left")
    axis.set_xscale("log")
    axis.set_xlabel("KL(π‖ref) in nats per completion, small language", fontsize=8)
    if panel.right is None:
        axis.set_yscale("log")
    else:
        axis.set_ylim(*panel.limits)


def _by_cell(axis: Any, panel: Panel, audit: Audit) -> None:
    """Draw a point per cell, with bars of two standard errors; no point if the cosine is unknown."""
    rows = [row for row in reversed(audit.rows) if row.placement == "reward" or not panel.is_of_value]
    for height, row in enumerate(rows):
        found = getattr(row, panel.attribute)
        if math.isfinite(found):
            error = 2 * getattr(row, f"{panel.attribute}_se", 0.0)
            axis.errorbar(found, height, xerr=error or None, fmt="o", color=COLOURS[row.estimator], capsize=2)
    axis.set_yticks(range(len(rows)), [_name(row, panel) for row in rows])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_title(f"sampled {panel.heading}", fontsize=10, loc="left")
    if panel.right is None:
        axis.set_xlim(left=0)
    else:
        axis.axvline(panel.right, color="black", linewidth=0.8)
        axis.set_xlim(*panel.limits)


def _steps(axis: Any, placement: str, outlined: Step | None) -> None:
    """Draw the verdicts on steps by advantage and loss aggregation."""
    rows = step_table.rows(placement)
    for height, (_, steps) in enumerate(rows):
        for place, step in enumerate(steps):
            verdict = step_table.judge(step).verdict
            is_outlined = step == outlined
            axis.barh(
                height,
                0.96,
                height=0.9,
                left=place - 0.48,
                color=FILLS[step_report.COLOURS[verdict]],
                edgecolor="black" if is_outlined else "none",
                linewidth=2.5,
                zorder=2 if is_outlined else 1,
            )
            axis.text(place, height, step_table.SHORT[verdict], ha="center", va="center", fontsize=9, zorder=3)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
    axis.set_xticks(range(len(step_table.AGGREGATIONS)), step_table.AGGREGATIONS, fontsize=9)
    axis.invert_yaxis()
    axis.set_title(
        f"optimizer step, {step_report.TITLES[placement]}: by advantage and loss aggregation", fontsize=10, loc="left"
    )
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.tick_params(length=0)


def _name(row: Row, panel: Panel) -> str:
    """The name of a row. A value does not depend on the placement."""
    return f"{row.estimator} {row.level}" if panel.is_of_value else " ".join(row.cell)
