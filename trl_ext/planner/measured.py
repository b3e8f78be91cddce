"""Find the training rates that earlier runs of the same model measured, by device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.planner.cards import CPU
from trl_ext.recipe import reader
from trl_ext.recipe.resolved import RESOLVED
from trl_ext.report import metrics_file
from trl_ext.support.errors import UserError

SAME = ("load_in_4bit", "load_in_8bit", "use_peft")
"""Settings besides model and kind of training that must agree: they change the time of a token by a factor."""


class Measured(NamedTuple):
    """A rate that a run measured.

    Attributes:
        device: Name of the graphics card, or "CPU".
        tokens_per_second: Tokens as `num_tokens` counts them, per second of training, evaluation and sampling included.
        run: Directory of the run.
    """

    device: str
    tokens_per_second: float
    run: Path


def rates(recipe: Any, folder: Path = Path("runs")) -> dict[str, Measured]:
    """The latest measured rate of each device, from the runs in a folder that trained the same model in the same way."""
    found = sorted(_runs(recipe, folder), key=lambda measured: (measured.run / "metrics.jsonl").stat().st_mtime)
    return {measured.device: measured for measured in found}


def _runs(recipe: Any, folder: Path) -> Iterator[Measured]:
    for path in (*folder.glob(f"*/{RESOLVED}"), *folder.glob(f"*/*/{RESOLVED}")):  # the second: runs of a comparison
        try:
            values = reader.read(path).values
            device = _device(json.loads((path.parent / "environment.json").read_text(encoding="utf-8")), values)
            rate = _rate(metrics_file.read(path.parent / "metrics.jsonl"))
        except (OSError, ValueError, UserError):
            continue
        if rate is not None and _is_alike(recipe, values):
            yield Measured(device, rate, path.parent)


def _is_alike(recipe: Any, values: dict[str, Any]) -> bool:
    if any(bool(values.get(key)) != bool(recipe.get(key)) for key in SAME):
        return False
    if _kind(values) != (recipe.trainer, recipe.method.is_paired if recipe.method.is_default else None):
        return False
    return _place(values.get("model_name_or_path")) == _place(recipe.get("model_name_or_path"))


def _kind(values: dict[str, Any]) -> tuple[str | None, bool | None]:
    """The `trainer` of a resolved recipe, and whether its loss reads pairs if it has none."""
    from trl_ext.recipe.choice.loss import canonical_loss

    trainer, loss = values.get("trainer"), values.get("loss")
    if trainer is not None:
        return trainer, None
    return None, loss is None or canonical_loss(loss)[1].paired


def _place(name: Any) -> str:
    path = Path(str(name)).expanduser()
    return str(path.resolve()) if path.exists() else str(name)


def _device(environment: dict[str, Any], values: dict[str, Any]) -> str:
    devices = [] if values.get("use_cpu") else environment.get("devices") or []
    return devices[0]["name"] if devices else CPU


def _rate(records: list[dict[str, Any]]) -> float | None:
    """Tokens per second between the first and the last log: the first step also warms up."""
    counted = [record for record in records if record.get("num_tokens") and "seconds" in record]
    if len(counted) < 2:
        return None
    seconds = counted[-1]["seconds"] - counted[0]["seconds"]
    tokens = counted[-1]["num_tokens"] - counted[0]["num_tokens"]
    return tokens / seconds if seconds > 0 and tokens > 0 else None
