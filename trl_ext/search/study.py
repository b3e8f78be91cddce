"""The study of Optuna that a search keeps its trials in: storage, sampler and pruner."""

from __future__ import annotations

import contextlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from trl_ext.pairing.settings import changes
from trl_ext.search.settings import HALVING, NONE, Settings
from trl_ext.support import atomic
from trl_ext.support.errors import UserError

HEARTBEAT, GRACE = 15, 120
"""Seconds between signs of life of a trial, and without one before the trial is repeated by another process."""
WAIT = 60
"""Seconds that a process waits for an SQLite file that another one is writing."""
ATTEMPTS = 3
"""To open a storage."""
AT_RANDOM = 8
"""Trials whose settings are drawn at random, before the sampler learns from results."""
BASE = "base"
SETTINGS, RECORDED = "settings", "asked.json"


FEW = 64
"""Combinations of settings that are all tried, each once, instead of letting the sampler learn."""


class Seeded(optuna.samplers.BaseSampler):
    """A sampler of Optuna with a seed per trial, so that a continued search draws what the uninterrupted one would have drawn, and
    processes that share a study never draw the same. It is TPE, or draws without replacement from a few combinations.

    Args:
        seed: Of the search.
        size: Number of combinations of settings; `None` if there are infinitely many.
    """

    def __init__(self, seed: int, size: int | None = None) -> None:
        self._seed, self._draws = seed, size is not None and size <= FEW
        self._now: tuple[int, optuna.samplers.BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if self._now is None or self._now[0] != trial.number:
            with quiet():
                self._now = trial.number, self._made(self._seed * 1_000_003 + trial.number)
        return self._now[1]

    def _made(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._draws:
            return optuna.samplers.BruteForceSampler(seed=seed)
        # Its group decomposition learns about the settings of each loss separately.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=AT_RANDOM, multivariate=True, group=True)

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, Any]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context without Optuna's lines about trials and its warnings about experimental parts."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", module="optuna")
        yield


def pruner(settings: Settings) -> optuna.pruners.BasePruner:
    """What stops trials at the rungs of `Settings.shares`."""
    if settings.pruner == NONE:
        return optuna.pruners.NopPruner()
    if settings.pruner == HALVING:
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=settings.reduction_factor)
    return optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=settings.resource, reduction_factor=settings.reduction_factor
    )


def default_url(directory: Path) -> str:
    """The SQLite file of a search."""
    return f"sqlite:///{directory.resolve() / 'trials.db'}"


def open_study(
    url: str, name: str, settings: Settings, recorded: Mapping[str, Any], size: int | None = None
) -> optuna.Study:
    """The study of a search, created if it does not exist yet.

    Args:
        url: Of the storage, as SQLAlchemy reads it.
        name: Of the study.
        settings: Of the search.
        recorded: Everything that trials depend on, kept with the study.
        size: See `Seeded`.

    Raises:
        UserError: The storage cannot be opened.
    """
    import sqlalchemy.exc

    for attempt in range(ATTEMPTS):
        try:
            study = _create(url, name, settings, size)
            break
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, OSError) as error:
            if isinstance(error, sqlalchemy.exc.DBAPIError) and attempt + 1 < ATTEMPTS:
                time.sleep(attempt + 1)  # two processes create the tables at the same moment, and one of them fails
                continue
            said = str(error).splitlines()[0]
            raise UserError(
                f"`--storage` is {_without_password(url)}, which cannot be opened ({said}). Give the URL of a database that can be "
                "written to, as SQLAlchemy reads it: sqlite:///search.db, or postgresql://user@host/name."
            ) from error
    if study.user_attrs.get(SETTINGS) is None:
        study.set_user_attr(SETTINGS, dict(recorded))
    return study


def _create(url: str, name: str, settings: Settings, size: int | None) -> optuna.Study:
    storage = RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": WAIT}} if url.startswith("sqlite") else {},
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=requeue,
    )
    return optuna.create_study(
        study_name=name,
        storage=storage,
        direction="maximize",
        sampler=Seeded(settings.seed, size),
        pruner=pruner(settings),
        load_if_exists=True,
    )


def _without_password(url: str) -> str:
    """The URL for a message."""
    import sqlalchemy

    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def refuse_others(directory: Path, recorded: Mapping[str, Any]) -> None:
    """Record the settings of a search in its directory, or refuse others than those that are there.

    Raises:
        UserError: Settings differ; names them.
    """
    path = directory / RECORDED
    recorded = json.loads(json.dumps(recorded, default=str))
    if path.exists():
        if changed := changes(json.loads(path.read_text(encoding="utf-8")), recorded):
            raise UserError(
                f"{directory} holds a search with other settings: {', '.join(changed[:4])}. Choose another `--output_dir`, or remove "
                "the folder to start again."
            )
        return
    atomic.write_json(path, recorded)


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let a trial that was not carried out to its end begin again, with the same settings."""
    with quiet():
        RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def keep_base(study: optuna.Study, base: Mapping[bool, Any]) -> None:
    """Keep what the base measures on all prompts with the study, for commands that measure nothing themselves."""
    if True in base and BASE not in study.user_attrs:
        study.set_user_attr(BASE, base[True].value._asdict())


def is_repeated(study: optuna.Study, number: int) -> bool:
    """Whether another trial repeats the one of this number."""
    trials = study.get_trials(deepcopy=False)
    return number not in {each.number for each in latest(trials)} and any(each.number == number for each in trials)


def latest(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those that another one repeats."""
    repeated = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    return [trial for trial in trials if trial.number not in repeated]


def is_over(trial: FrozenTrial) -> bool:
    """Whether a trial has a result, or was stopped for the results of others."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def are_all_tried(trials: list[FrozenTrial], size: int | None) -> bool:
    """Whether every combination of settings has been tried, with a result or in vain.

    Args:
        trials: Of the study.
        size: Number of combinations; `None` if there are infinitely many.
    """
    if size is None:
        return False
    tried = [each for each in latest(trials) if is_over(each) or each.state == TrialState.FAIL]
    return len({tuple(sorted(each.params.items(), key=str)) for each in tried}) >= size
