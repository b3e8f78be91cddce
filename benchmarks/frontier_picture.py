"""Make the table and the picture of the frontier."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Cells = dict[str, dict[str, Any]]

FARTHEST = 3.0
"""Maximum KL in nats of drawn policies; a policy that broke down would compress the scale."""


class Method(NamedTuple):
    """One line of the picture: label, name and values of the coefficient, other settings, colour and marker."""

    label: str
    coefficient: str
    values: tuple[float, ...]
    settings: dict[str, Any]
    colour: str
    marker: str


def table(found: Cells, methods: dict[str, Method], base: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per policy, with the rewards of best-of-n and of the optimum at its KL, interpolated linearly."""
    rows = []
    for name, method in methods.items():
        for cell in _of(found, name):
            rows.append(
                {
                    "method": method.label,
                    "coefficient": f"{method.coefficient} {_value(cell, method)}",
                    **{key: cell[key] for key in ("kl", "kl_se")},
                    **{key: cell["after"][key] for key in ("reward", "reward_se", "fluency", "fluency_se")},
                    "best_of_n": _reward_at(cell["kl"], base["points"]),
                    "optimum": _reward_at(cell["kl"], base["optimum"]),
                }
            )
    return rows


def _of(found: Cells, name: str) -> list[dict[str, Any]]:
    return sorted((cell for cell in found.values() if cell.get("method") == name), key=lambda cell: cell["kl"])


def _value(cell: dict[str, Any], method: Method) -> str:
    return f"{cell['settings'][method.coefficient]:g}"


def _reward_at(kl: float, curve: list[dict[str, float]]) -> float:
    return float(np.interp(kl, [point["kl"] for point in curve], [point["reward"] for point in curve]))


def draw(found: Cells, methods: dict[str, Method], base: dict[str, Any], picture: Path) -> None:
    """Draw reward against KL, and fluency below it; bars are standard errors."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    points, best = base["points"], base["optimum"]
    drawn = {name: cell for name, cell in found.items() if cell.get("kl", 0) < FARTHEST}
    widest = max(cell["kl"] + cell["kl_se"] for cell in drawn.values() if "kl" in cell) + 0.15
    above.plot(
        [*(p["kl"] for p in best), 9], [*(p["reward"] for p in best), 1.0], "--", color="0.35", linewidth=1.4,
        label="upper bound for any policy at this KL", zorder=1,
    )  # fmt: skip
    for axis, quantity in ((above, "reward"), (below, "fluency")):
        axis.plot(
            [p["kl"] for p in points], [p[quantity] for p in points], color="0.6", marker=".", zorder=1,
            label="best of n, at ln n − (n−1)/n",
        )  # fmt: skip
        for name, method in methods.items():
            own = _of(drawn, name)
            axis.plot(
                [c["kl"] for c in own],
                [c["after"][quantity] for c in own],
                color=method.colour,
                linewidth=1,
                alpha=0.3,
            )
            axis.errorbar(
                [c["kl"] for c in own],
                [c["after"][quantity] for c in own],
                yerr=[c["after"][f"{quantity}_se"] for c in own],
                xerr=[c["kl_se"] for c in own],
                color=method.colour, marker=method.marker, linestyle="none", markersize=6, elinewidth=1.2,
                label=f"{method.label} ({method.coefficient} {', '.join(_value(c, method) for c in own)})",
            )  # fmt: skip
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylabel({"reward": "true reward", "fluency": "sentences that parse"}[quantity])
    for point in points:
        if point["kl"] < widest - 0.1 and point["n"] & (point["n"] - 1) == 0:
            above.annotate(
                f"n={point['n']}", (point["kl"], point["reward"]), (5, -12), textcoords="offset points", size=8, color="0.4"
            )  # fmt: skip
    above.set_xlim(-0.03, widest)
    above.legend(frameon=False, loc="lower right", fontsize=9, title="coefficients from left to right")
    below.set_xlabel("KL(policy ‖ base), nats per completion")
    figure.savefig(picture, dpi=110)
