"""The picture of a dataset: how long its prompts and answers are, and where they are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trl_ext.inspection.facts import Facts

COLOURS = {"prompt": "tab:gray", "chosen": "tab:green", "rejected": "tab:red", "completion": "tab:blue"}
BINS = 60
SMALL = 7
"""Points of the small print."""


def draw(picture: Path, facts: Facts, title: str) -> Path:
    """Draw histograms of the parts' lengths before any cut and of whole sequences, into one PNG.

    Args:
        picture: Where the PNG goes.
        facts: Of the examples; those left out are drawn as well, hatched.
        title: Printed above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = dict(facts.lengths)
    prompt = facts.lengths.get("prompt")
    answers = [name for name in facts.lengths if name != "prompt"]
    if prompt is not None and answers:
        longest = np.max([facts.lengths[name] for name in answers], axis=0)
        panels["prompt and longest answer" if len(answers) > 1 else "prompt and answer"] = prompt + longest
    limit = facts.limits.max_length
    figure = Figure(figsize=(4.3 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, tokens) in zip(axes, panels.items(), strict=True):
        is_whole = name not in facts.lengths or prompt is None
        right = right_edge(tokens)
        _histogram(axis, tokens, facts.is_dropped, right, COLOURS.get(name, "tab:purple"))
        if limit is not None and (is_whole or name == "prompt"):
            _limit(axis, limit, tokens, right, is_whole)
        _style(axis, name, tokens, right)
    axes[0].set_ylabel("examples", fontsize=8)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.savefig(picture, dpi=110)
    return picture


def right_edge(tokens: np.ndarray) -> int:
    """The longest length shown: of very long examples that would squeeze all others into one bar, none."""
    if not len(tokens):
        return 1
    usual = int(1.5 * np.percentile(tokens, 98, method="lower"))
    return max(min(int(tokens.max()), usual), 1)


def _histogram(axis, tokens: np.ndarray, is_dropped: np.ndarray, right: int, colour: str) -> None:
    """Bars of whole numbers of tokens, those of the examples left out on top."""
    width = -(-(right + 1) // BINS)
    edges = np.arange(0, right + width + 1, width) - 0.5
    below = np.zeros(len(edges) - 1)
    for chosen, style in (
        (~is_dropped, {"color": colour}),
        (is_dropped, {"color": "white", "edgecolor": "black", "hatch": "////", "linewidth": 0.4, "label": "left out"}),
    ):
        heights = np.histogram(tokens[chosen], edges)[0]
        if heights.any():
            axis.bar(edges[:-1], heights, 0.9 * width, below, align="edge", **style)
        below = below + heights
    if not is_dropped.all():
        median = float(np.median(tokens[~is_dropped]))
        axis.axvline(median, color="black", linewidth=0.8, linestyle=":", label=f"median {median:,.0f}")
    axis.set_xlim(-0.5 - 0.02 * right, edges[-1] + 0.02 * right)


def _limit(axis, limit: int, tokens: np.ndarray, right: int, is_whole: bool) -> None:
    beyond = int(np.sum(tokens > limit if is_whole else tokens >= limit))
    label = f"max_length {limit:,}: {beyond:,} {'longer' if is_whole else 'as long or longer'}"
    if limit > right:
        axis.plot([], [], " ", label=f"{label} →")
    else:
        axis.axvline(limit, color="tab:orange", linewidth=1.6, label=label)


def _style(axis, name: str, tokens: np.ndarray, right: int) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_title(name, fontsize=10, loc="left")
    beyond = int(np.sum(tokens > right))
    more = f" ({beyond:,} beyond the edge, the longest {int(tokens.max()):,})" if beyond else ""
    axis.set_xlabel(f"tokens{more}", fontsize=8)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_ylim(0, axis.get_ylim()[1] * 1.3)  # room for the legend
    axis.legend(loc="upper right", fontsize=SMALL, frameon=False)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, axis="y")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
