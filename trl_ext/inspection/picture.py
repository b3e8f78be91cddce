"""Draw histograms of the lengths of prompts and completions, and where they are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trl_ext.inspection.facts import Facts

COLOURS = {
    "prompt": "tab:gray",
    "chosen": "tab:green",
    "rejected": "tab:red",
    "gold": "tab:olive",
    "completion": "tab:blue",
}
BINS = 60
SMALL = 7
"""Font size of small print, in points."""


def draw(picture: Path, facts: Facts, title: str) -> Path:
    """Draw histograms of the lengths of prompts, completions and whole sequences, before any cut, into one PNG.

    Args:
        picture: Path of the PNG.
        facts: The facts about the examples. Dropped examples are drawn hatched.
        title: Title of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = dict(facts.lengths)
    prompt = facts.lengths.get("prompt")
    completions = [name for name in facts.lengths if name != "prompt"]
    if prompt is not None and completions:
        longest = np.max([facts.lengths[name] for name in completions], axis=0)
        panels["prompt and longest completion" if len(completions) > 1 else "prompt and completion"] = prompt + longest
    limit = facts.limits.max_length
    figure = Figure(figsize=(4.3 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, tokens) in zip(axes, panels.items(), strict=True):
        is_whole = name not in facts.lengths or prompt is None
        edges = bins(tokens)
        right = int(edges[-1])
        _histogram(axis, tokens, facts.is_dropped, edges, COLOURS.get(name, "tab:purple"))
        if limit is not None and (is_whole or name == "prompt"):
            _limit(axis, limit, tokens, right, is_whole)
        _style(axis, name, tokens, right)
    axes[0].set_ylabel("examples", fontsize=8)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.savefig(picture, dpi=110)
    return picture


def bins(tokens: np.ndarray) -> np.ndarray:
    """Edges of the bars, all of the same whole number of tokens wide.

    A few very long examples would squeeze all others into one bar. So if the longest example has at least three times the
    98th percentile, the bars end at 1.5 times that percentile.
    """
    right = int(tokens.max(initial=1))
    usual = max(int(np.percentile(tokens, 98, method="lower")), 1) if len(tokens) else 1
    if right >= 3 * usual:
        right = int(1.5 * usual)
    width = -(-(right + 1) // BINS)
    return np.arange(0, right + width + 1, width) - 0.5


def _histogram(axis, tokens: np.ndarray, is_dropped: np.ndarray, edges: np.ndarray, colour: str) -> None:
    """Draw the bars, with those of dropped examples on top."""
    width = edges[1] - edges[0]
    below = np.zeros(len(edges) - 1)
    for chosen, style in (
        (~is_dropped, {"color": colour}),
        (is_dropped, {"color": "white", "edgecolor": "black", "hatch": "////", "linewidth": 0.4, "label": "dropped"}),
    ):
        heights = np.histogram(tokens[chosen], edges)[0]
        if heights.any():
            axis.bar(edges[:-1] + 0.05 * width, heights, 0.9 * width, below, align="edge", **style)
        below = below + heights
    if not is_dropped.all():
        median = float(np.median(tokens[~is_dropped]))
        axis.axvline(median, color="black", linewidth=0.8, linestyle=":", label=f"median {median:,.0f}")
    margin = 0.02 * edges[-1]
    axis.set_xlim(edges[0] - margin, edges[-1] + margin)


def _limit(axis, limit: int, tokens: np.ndarray, right: int, is_whole: bool) -> None:
    beyond = int(np.sum(tokens > limit if is_whole else tokens >= limit))
    label = f"max_length {limit:,}: {beyond:,} {'longer' if is_whole else 'at least as long'}"
    if limit > right:
        axis.plot([], [], " ", label=f"{label} →")
    else:
        axis.axvline(limit, color="tab:orange", linewidth=1.6, label=label)


def _style(axis, name: str, tokens: np.ndarray, right: int) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_title(name, fontsize=10, loc="left")
    beyond = int(np.sum(tokens > right))
    more = f" ({beyond:,} are longer, up to {int(tokens.max()):,})" if beyond else ""
    axis.set_xlabel(f"tokens{more}", fontsize=8)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_ylim(0, axis.get_ylim()[1] * 1.3)  # room for the legend
    axis.legend(loc="upper right", fontsize=SMALL, framealpha=1, edgecolor="none")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, axis="y")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
