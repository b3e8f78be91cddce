"""The picture of a dataset: how long its prompts and answers are, and where they are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trl_ext.inspection.facts import Facts

COLOURS = {"prompt": "tab:gray", "chosen": "tab:green", "rejected": "tab:red", "completion": "tab:blue"}
BINS = 60


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
    figure = Figure(figsize=(4.3 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, tokens) in zip(axes, panels.items(), strict=True):
        is_whole = name not in facts.lengths or prompt is None
        _histogram(axis, tokens, facts.is_dropped, COLOURS.get(name, "tab:purple"))
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xlabel("tokens", fontsize=8)
        if limit is not None and (is_whole or name == "prompt"):
            _limit(axis, limit, tokens, is_whole)
    axes[0].set_ylabel("examples", fontsize=8)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.savefig(picture, dpi=110)
    return picture


def _histogram(axis, tokens: np.ndarray, is_dropped: np.ndarray, colour: str) -> None:
    # A few very long examples would squeeze all others into one bar.
    edge = max(float(np.percentile(tokens, 99.5)) * 1.15, 1.0) if len(tokens) else 1.0
    top = max(min(float(tokens.max(initial=1)), edge), 1.0)
    edges = np.linspace(0, top, min(BINS, int(top) + 1) + 1)
    shown = np.minimum(tokens, top)
    axis.hist(
        [shown[~is_dropped], shown[is_dropped]],
        bins=edges,
        stacked=True,
        color=[colour, "white"],
        edgecolor=[colour, "black"],
        hatch=["", "////"],
        linewidth=0.4,
        label=["", "left out"],
    )
    median = float(np.median(tokens[~is_dropped])) if not is_dropped.all() else 0.0
    axis.axvline(median, color="black", linewidth=0.8, linestyle=":")
    axis.text(median, axis.get_ylim()[1], f" median {median:,.0f}", fontsize=7, va="top")
    if tokens.max(initial=0) > top:
        axis.text(0.99, 0.5, f"longest {tokens.max():,} →", fontsize=7, ha="right", transform=axis.transAxes)
    if is_dropped.any():
        axis.legend(loc="upper right", fontsize=7, frameon=False)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, axis="y")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _limit(axis, limit: int, tokens: np.ndarray, is_whole: bool) -> None:
    beyond = float(np.mean(tokens > limit if is_whole else tokens >= limit))
    right = axis.get_xlim()[1]
    if limit > right:
        axis.text(0.99, 0.6, f"max_length {limit:,} →", fontsize=7, ha="right", transform=axis.transAxes)
        return
    axis.axvline(limit, color="tab:orange", linewidth=1.6)
    axis.text(
        limit,
        axis.get_ylim()[1] * 0.9,
        f" max_length {limit:,}\n {beyond:.1%} beyond",
        fontsize=7,
        va="top",
        color="tab:orange",
    )
