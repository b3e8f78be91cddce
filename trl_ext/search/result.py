"""What a search found: its trials as rows, the best one, the frontier, and the importance of each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from trl_ext.search import study as studies
from trl_ext.search.equal_kl import at_equal_kl
from trl_ext.search.settings import Settings
from trl_ext.support.intervals import format_estimate
from trl_ext.support.progress import duration

Number = dict[str, float | None]

FINISHED, STOPPED, FAILED, OPEN = "finished", "stopped early", "failed", "not finished"
STATES = {TrialState.COMPLETE: FINISHED, TrialState.PRUNED: STOPPED, TrialState.FAIL: FAILED}
FEWEST = 8
"""Finished trials from which on importances are given."""
BEST_SHARE = 0.25
"""Share of the finished trials that count as good for the importances."""


@dataclass(frozen=True)
class Row:
    """One trial.

    Attributes:
        number: Of the trial.
        state: `FINISHED`, `STOPPED`, `FAILED` or `OPEN`.
        settings: As flags of `trl-ext run`.
        value: The measure, with its interval; `None` without a whole measurement.
        kl: KL to the base, nats per completion, with its interval.
        rungs: Measurements on the way, by resource.
        steps: Optimizer steps that were carried out.
        max_steps: Optimizer steps of the whole trial.
        seconds: Of the trial.
        is_recipe: Whether it is the recipe as it is.
        folder: Of its run, within the directory of the search.
        error: Why it failed.
    """

    number: int
    state: str
    settings: dict[str, Any] = field(default_factory=dict)
    value: Number | None = None
    kl: Number | None = None
    rungs: dict[int, dict[str, Number]] = field(default_factory=dict)
    steps: int | None = None
    max_steps: int | None = None
    seconds: float | None = None
    is_recipe: bool = False
    folder: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.number}{' (recipe)' if self.is_recipe else ''}"

    def is_within(self, max_kl: float) -> bool:
        """Whether it has a result with a KL of at most so many nats."""
        return self.value is not None and self.kl is not None and self.kl["value"] <= max_kl


def rows(study: optuna.Study) -> list[Row]:
    """The trials of a study in order, without those that another one repeats."""
    return [row(trial) for trial in studies.latest(study.get_trials(deepcopy=False))]


def row(trial: FrozenTrial) -> Row:
    """A trial as it stands in the storage."""
    kept = trial.user_attrs
    measured = kept.get("measured") if trial.state == TrialState.COMPLETE else None
    return Row(
        number=trial.number,
        state=STATES.get(trial.state, OPEN),
        settings=kept.get("settings", {}),
        value=measured and measured["value"],
        kl=measured and measured["kl"],
        rungs={int(key[5:]): value for key, value in sorted(kept.items()) if key.startswith("rung_")},
        steps=kept.get("steps"),
        max_steps=kept.get("max_steps"),
        seconds=kept.get("seconds"),
        is_recipe=bool(kept.get("is_recipe")),
        folder=kept.get("folder"),
        error=kept.get("error"),
    )


def best(found: Sequence[Row], max_kl: float) -> Row | None:
    """The finished trial with the largest measure among those with a KL of at most `max_kl`; the earliest of equal ones."""
    return max((each for each in found if each.is_within(max_kl)), key=lambda each: each.value["value"], default=None)


def frontier(found: Sequence[Row], base: Number | None = None) -> list[Row]:
    """The finished trials that no other one beats: none has a larger measure at a KL that is not larger. In the order of their KL.

    Args:
        found: Trials.
        base: The measure of the base, whose KL is 0; trials below it are not on the frontier.
    """
    highest = float("-inf") if base is None else base["value"]
    on_it = []
    for each in sorted(
        (each for each in found if each.value), key=lambda each: (each.kl["value"], -each.value["value"])
    ):
        if each.value["value"] > highest:
            on_it.append(each)
            highest = each.value["value"]
    return on_it


def importances(study: optuna.Study, settings: Settings, base: float) -> dict[str, float]:
    """How much each parameter decides whether a trial is among the best quarter at equal KL, as shares that sum to 1; the largest first.

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), as Optuna computes it, over finished trials. Empty if there are fewer than
    `FEWEST`.
    """
    finished = [each for each in study.get_trials(deepcopy=False) if each.state == TrialState.COMPLETE]
    if len(finished) < FEWEST:
        return {}

    def loss(trial: FrozenTrial) -> float:  # PED-ANOVA asks which settings give low values
        measured = trial.user_attrs["measured"]
        return -at_equal_kl(measured["value"]["value"], measured["kl"]["value"], base, settings.max_kl)

    with studies.quiet():
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        return optuna.importance.get_param_importances(study, evaluator=evaluator, target=loss)


def in_words(settings: Mapping[str, Any]) -> str:
    """The settings of a trial in a line."""
    return (
        ", ".join(str(value) if key == "loss" else f"{key} {_plain(value)}" for key, value in settings.items())
        or "as it is"
    )


def line(trial: FrozenTrial, settings: Settings, measure: str) -> str:
    """One line about a trial that is over."""
    found = row(trial)
    took = f" ({duration(found.seconds)})" if found.seconds else ""
    title = f"trial {found.name}: {in_words(found.settings)} →"
    if found.state == FAILED:
        return f"{title} failed. {found.error or ''}".rstrip()
    if found.value is not None:
        over = f", above the largest KL of {settings.max_kl:g}" if not found.is_within(settings.max_kl) else ""
        return f"{title} {measure} {format_estimate(found.value, '{:.3f}')}, KL {format_estimate(found.kl, '{:.2f}')}{over}{took}"
    last = [*found.rungs.values()][-1:]
    at = f": {measure} {last[0]['value']['value']:.3f}, KL {last[0]['kl']['value']:.2f}" if last else ""
    return f"{title} stopped at step {found.steps:,} of {found.max_steps:,}{at}{took}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
