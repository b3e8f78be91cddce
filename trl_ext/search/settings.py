"""The settings of a search: those of the recipe's `search`, of flags, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trl_ext.checks.search_block import ACCURACY
from trl_ext.demo import EMBEDDED
from trl_ext.pairing.settings import digest
from trl_ext.recipe import Recipe
from trl_ext.runs.recorded import without_location
from trl_ext.search.space import OFF, Space

NONE, HALVING, HYPERBAND = "none", "successive_halving", "hyperband"
MAX_KL = 5.0
"""Runs of real chat models with usual settings spend 1.5 to 6 nats per completion (docs/real.md)."""
TRUE_REWARD = "sentiment"
"""The reward function of the embedded data."""
LEAST_AT_A_RUNG = 32
AT_A_RUNG = 4
"""A rung is measured on one in so many prompts and rows, and on `LEAST_AT_A_RUNG` at least."""


@dataclass(frozen=True)
class Settings:
    """How a search decides. See `SearchKeys` of the recipe for the meaning of each.

    Attributes:
        max_kl: Nats per completion.
        samples: Held-out prompts of a whole measurement.
        limit: Held-out rows of a whole measurement, if the measure is `accuracy`.
    """

    measure: str
    max_kl: float = MAX_KL
    samples: int = 256
    limit: int = 500
    max_new_tokens: int = 128
    dataset: str | None = None
    split: str | None = None
    pruner: str = HALVING
    reduction_factor: int = 2
    rungs: int = 2
    seed: int = 0
    judge_model: str | None = None
    judge_base_url: str | None = None
    judge_template: str | None = None

    @property
    def shares(self) -> list[tuple[int, float]]:
        """The rungs of a trial: resource in units of Optuna's pruners, and share of the trial's steps."""
        if self.pruner == NONE:
            return []
        return [(self.reduction_factor**i, self.reduction_factor ** (i - self.rungs)) for i in range(self.rungs)]

    @property
    def resource(self) -> int:
        """The resource of a whole trial."""
        return self.reduction_factor**self.rungs

    def part(self, n: int) -> int:
        """How many of n prompts or rows a rung is measured on."""
        return min(n, max(LEAST_AT_A_RUNG, n // AT_A_RUNG))


def settle(recipe: Recipe, flags: Mapping[str, Any], *, compares: bool) -> Settings:
    """The settings of a recipe's `search`, with flags before them and defaults behind them.

    Args:
        recipe: The recipe.
        flags: Those that were given, by their names.
        compares: Whether the measure is a judge, whose answers are longer.
    """
    fields = Settings.__dataclass_fields__
    given = {
        key: value for key, value in {**(recipe.search or {}), **flags}.items() if value is not None and key in fields
    }
    given.setdefault("measure", default_measure(recipe))
    if compares:
        given.setdefault("max_new_tokens", 512)
    return Settings(**given)


def default_measure(recipe: Recipe) -> str:
    """The true reward of the embedded data, else `accuracy`."""
    return TRUE_REWARD if recipe.get("dataset_name") == EMBEDDED else ACCURACY


def record(recipe: Recipe, space: Space, settings: Settings) -> dict[str, Any]:
    """Everything that a trial's result depends on besides its own settings, as plain values."""
    values = {key: value for key, value in without_location(recipe).values.items() if key not in OFF}
    return {"recipe": values, "space": space.to_dict(), "settings": asdict(settings)}


def study_name(recipe: Recipe, recorded: Mapping[str, Any]) -> str:
    """The name of the study: equal for commands that work on one search, different for searches that differ."""
    return f"{recipe.name}-{digest(recorded)}"
