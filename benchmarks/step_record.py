"""The saved measurements of steps, kept after each one so that a stopped benchmark continues, and their ratios."""

import json
import statistics
from pathlib import Path
from typing import Any

from trl_ext.support import atomic

AS_IS, NARROW, SORTED = "as is", "head on completions", "head on completions, sorted"
WAYS = (AS_IS, NARROW, SORTED)
"""How TRL is measured, each better for TRL than the one before."""
LAYERS = (3, 6)
"""Memory without gradient checkpointing is also measured with so few layers, since all may not fit."""

SECONDS, BYTES = "seconds", "peak_bytes"
ROWS = (
    # what, TRL's entry up to the way it is taken, ours, the quantity
    ("8 pairs per TRL micro-batch, TRL at its default (checkpointing)", "TRL default, 8 pairs", "packed", SECONDS),
    ("8 pairs per TRL micro-batch, both with checkpointing", "TRL default, 8 pairs", "packed, checkpointing", SECONDS),
    ("4 pairs per TRL micro-batch, both with checkpointing", "TRL default, 4 pairs", "packed, checkpointing", SECONDS),
    ("4 pairs per TRL micro-batch", "TRL, 4 pairs", "packed", SECONDS),
    ("8 pairs per TRL micro-batch", "TRL, 8 pairs", "packed", SECONDS),
    ("4 pairs, reference cached (the second loss tried)", "TRL, 4 pairs", "cached", SECONDS),
    ("8 pairs, reference cached, TRL at its default (checkpointing)", "TRL default, 8 pairs", "cached", SECONDS),
    ("8 pairs, our padded fallback", "TRL, 8 pairs", "padded", SECONDS),
    ("KTO, 8 completions per TRL micro-batch", "TRL KTO", "our KTO", SECONDS),
    ("KTO, 8 completions, TRL at its default (checkpointing)", "TRL KTO default", "our KTO", SECONDS),
    ("four losses tried in a row, 4 pairs", "TRL, four losses", "four losses", SECONDS),
    ("peak memory of a step, 8 pairs, both with checkpointing", "TRL default, 8 pairs", "packed, checkpointing", BYTES),
    ("peak memory of a step, 8 pairs, no checkpointing", "TRL, 8 pairs", "packed", BYTES),
)  # fmt: skip

Cells = dict[str, list[dict[str, Any]]]
"""Measurements of one seed, by the name of a variant: one for each step."""


class Record:
    """A file of measurements, written after each of them.

    Args:
        path: The file. Its measurements are kept if they were made on the same machine with the same settings.
        about: Date, device, versions and settings.
        again: Drop its measurements in any case.
    """

    def __init__(self, path: Path, about: dict[str, Any], again: bool = False) -> None:
        self.path = path
        self.content: dict[str, Any] = {**about, "tokens": {}, "cells": {}}
        if path.exists() and not again:
            saved = json.loads(path.read_text(encoding="utf-8"))
            changed = [key for key in about if key != "date" and saved.get(key) != about[key]]
            if changed:
                print(f"{path} was measured with other {' and '.join(changed)}. The benchmark starts again.")
            else:
                self.content = saved

    def has(self, seed: int, name: str, number: int = 0) -> bool:
        """Whether a step of a variant has been measured."""
        return len(self.content["cells"].get(str(seed), {}).get(name, ())) > number

    def add(self, seed: int, name: str, found: dict[str, Any]) -> None:
        """Keep the measurement of a variant's next step."""
        self.content["cells"].setdefault(str(seed), {}).setdefault(name, []).append(found)
        self._save()

    def note_tokens(self, seed: int, tokens: dict[str, int]) -> None:
        """Keep the tokens of the pairs of a seed."""
        self.content["tokens"][str(seed)] = tokens
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        atomic.write_text(self.path, json.dumps(self.content, indent=1) + "\n")


def ratio(cells: Cells, theirs: str, ours: str, quantity: str = SECONDS) -> float | None:
    """TRL ÷ ours: sums over the steps for which both were measured; `None` without any."""
    both = list(zip(cells.get(theirs, ()), cells.get(ours, ()), strict=False))
    both = [(their[quantity], our[quantity]) for their, our in both if quantity in their and quantity in our]
    return sum(their for their, _ in both) / sum(our for _, our in both) if both else None


def at_all_layers(cells: Cells, name: str, layers: int) -> float | None:
    """Peak bytes of a step with all layers, continued linearly from steps with `LAYERS` of them; `None` without these."""
    few, more = (cells.get(f"{name}, {count} layers") for count in LAYERS)
    if not few or not more:
        return None
    low, high = few[0][BYTES], more[0][BYTES]
    return low + (high - low) / (LAYERS[1] - LAYERS[0]) * (layers - LAYERS[0])


def by_seed(record: dict[str, Any]) -> list[Cells]:
    """The measurements of each seed. Peak memory that was measured with few layers only is continued to all of them."""
    name, every = f"TRL, 8 pairs, {NARROW}", []
    for cells in record["cells"].values():
        continued = at_all_layers(cells, name, record["settings"]["layers"])
        every.append(cells if name in cells or continued is None else {**cells, name: [{BYTES: continued}]})
    return every


def table(record: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """For each row that was measured, the ratios of each way of measuring TRL, one for each seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for what, theirs, ours, quantity in ROWS:
        for way in WAYS:
            each = [ratio(cells, f"{theirs}, {way}", ours, quantity) for cells in by_seed(record)]
            if each := [value for value in each if value is not None]:
                found.setdefault(what, {})[way] = each
    return found


def spread(values: list[float]) -> str:
    """The median, with the smallest and the largest if there are several."""
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f} … {max(values):.2f})"
