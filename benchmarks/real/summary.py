"""Read the results of all cells, and compare each with the base.

Every number is a dictionary with `value`, `low` and `high`, the ends of its 95 % interval.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.real.cells import BASE, CELLS, RESULTS
from trl_ext.support import intervals

Number = dict[str, float]


def read(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The records of the finished cells by name, the base first, in the order of `CELLS`."""
    files = {cell.name: folder / f"{cell.name}.json" for cell in CELLS}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


class Preferences(NamedTuple):
    """How a run ranks held-out pairs: share with the larger log-ratio on the chosen side, and the mean difference in nats."""

    accuracy: Number
    margin: Number


def preferences(run: dict[str, Any], base: dict[str, Any]) -> Preferences:
    """Rank the held-out pairs by log π − log π_base."""
    ratios = {
        side: np.subtract(run["pairs"]["logps"][side], base["pairs"]["logps"][side]) for side in ("chosen", "rejected")
    }
    margins = ratios["chosen"] - ratios["rejected"]
    return Preferences(intervals.share_above(margins)._asdict(), intervals.mean(margins)._asdict())


def is_apart(one: Number, other: Number) -> bool:
    """Whether two intervals do not overlap."""
    return one["low"] > other["high"] or other["low"] > one["high"]


def facts_changed(run: dict[str, Any], base: dict[str, Any]) -> tuple[int, int, float]:
    """Facts lost, facts won, and the two-sided p-value of McNemar's exact test that neither is more frequent."""
    before, after = set(base["facts"]["which"]), set(run["facts"]["which"])
    lost, won = len(before - after), len(after - before)
    return lost, won, _sign_test(lost, won)


def _sign_test(losses: int, wins: int) -> float:
    n, k = losses + wins, min(losses, wins)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


def runs(found: dict[str, dict[str, Any]], recipes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The records of cells that trained with recipes whose names begin so."""
    return {
        name: record for name, record in found.items() if name != BASE and record["recipe"].startswith(tuple(recipes))
    }
