"""Set up matplotlib axes alike in all pictures: round ticks, and no range that shows noise as a change."""

import io
from collections.abc import Callable, Iterable
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

ROUND = [1, 2, 5, 10]
"""Ticks are multiples of these times a power of ten."""

FEW = 15
"""With fewer points than this, each has a marker; a single one would not be seen without."""


ONE = (4.8, 3.6)
"""Size of one panel of a page in inches. At the width of a phone its text is about 10 pixels high."""

DPI = 180
"""Resolution of the pictures of a page."""


def alone(draw: Callable[[Axes], None]) -> bytes:
    """One panel as a PNG of its own: side by side with others on a desk, one below the other on a phone."""
    figure = Figure(figsize=ONE, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    tidy(axis, 10)
    draw(axis)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=DPI, format="png")
    return picture.getvalue()


def tidy(axis: Axes, size: float = 9) -> None:
    """Draw a pale grid and no frame; label ticks with plain round numbers."""
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=size, length=3)
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=ROUND))
    axis.yaxis.set_major_formatter(FuncFormatter(plain))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def steps_below(axis: Axes, last: int, size: float = 9, *, is_named: bool = True) -> None:
    """Make the horizontal axis that of optimizer steps, from 0 to the last one."""
    axis.set_xlim(0, max(last, 1) * 1.03)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=ROUND, integer=True))
    if is_named:
        axis.set_xlabel("optimizer step", fontsize=size)


def show_range(
    axis: Axes,
    values: Iterable[float],
    least: float,
    low: float | None = None,
    high: float | None = None,
    share: float = 0.0,
) -> None:
    """Set the vertical range to that of the values, and at least `least` wide.

    Args:
        axis: The axes.
        values: Everything that is drawn.
        least: Smallest range, in the unit of the values. What varies by less is drawn as the flat line it is.
        low: Lower end, whatever the values are; if it is 0 and values are below, the range begins at the smallest one.
        high: Upper end, whatever the values are.
        share: Smallest range as a share of the largest absolute value.
    """
    known = [value for value in values if isfinite(value)] or [0.0]
    bottom, top = min(known), max(known)
    if low is not None:
        bottom = min(low, bottom) if low == 0 else low
    if high is not None:
        top = high
    least = max(least, share * max(map(abs, (bottom, top))))
    if top == bottom:
        least = least or abs(top) or 1.0
    if (missing := least - (top - bottom)) > 0:
        above = 1.0 if low is not None else 0.0 if high is not None else 0.5  # a fixed end stays where it is
        bottom, top = bottom - missing * (1 - above), top + missing * above
    margin = 0.04 * (top - bottom)
    axis.set_ylim(bottom - (margin if low is None or bottom < low else 0), top + margin)


def marker(points: int) -> str | None:
    """The marker of a line with so many points."""
    return "o" if points < FEW else None


def plain(value: float, _: int | None = None) -> str:
    """A tick's number without an offset: 0.0005 as 0.0005, 0.000005 as 5e-6."""
    text = f"{round(value, 12):g}"
    return text.replace("e-0", "e-").replace("-", "−") if value < 0 else text.replace("e-0", "e-")
