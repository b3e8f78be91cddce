"""Rules about PPO's KL: estimator, placement, level, coefficient and controller."""

from collections.abc import Callable, Iterator
from typing import Any

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.rl import truth_table

CONTROLLERS = ("fixed", "adaptive")
BETA_OF_RLOO = 0.05
"""TRL's default of RLOO's KL coefficient, which a complete list of its settings has (`tests/checks/test_ppo.py`)."""

CELL = ("kl_estimator", "kl_placement", "kl_level")


def kl_in_words(effective: Callable[[str], Any]) -> tuple[str, str]:
    """The KL term in words, and the gradient that it gives.

    Args:
        effective: Gives a setting by its name.
    """
    estimator, placement = effective("kl_estimator"), effective("kl_placement")
    level = truth_table.check(estimator, placement, effective("kl_level"))
    steering = f", steered towards {effective('kl_target')}" if effective("kl_controller") == "adaptive" else ""
    return (
        f"{estimator} in the {placement} at {level} level, coefficient {effective('kl_coef'):g}{steering}",
        " ".join(truth_table.GRADIENTS[estimator, placement, level]),
    )


@problem("beta", "kl_coef")
def one_coefficient(s: Settings) -> Iterator[str]:
    if s["beta"] not in (None, BETA_OF_RLOO):
        yield f"{s.where('beta')} is {s['beta']}: PPO has one KL coefficient, `kl_coef`. Set that and remove `beta`."


@problem(*CELL)
def estimator_and_placement(s: Settings) -> Iterator[str]:
    try:
        truth_table.check(*map(s.__getitem__, CELL))
    except ValueError as error:
        yield f"{s.named(*CELL)}: {error}"


@problem("kl_controller")
def controller(s: Settings) -> Iterator[str]:
    if s["kl_controller"] not in CONTROLLERS:
        yield f"{s.where('kl_controller')} is {s['kl_controller']!r}: choose {' or '.join(CONTROLLERS)}."


@problem("kl_controller", "kl_target")
def target(s: Settings) -> Iterator[str]:
    if s["kl_controller"] == "adaptive" and s["kl_target"] is None:
        yield f"{s.where('kl_controller')} is adaptive: set `kl_target`, the wanted KL in nats per completion."


@problem("kl_controller", "kl_target", "kl_horizon")
def steering_of_a_fixed_coefficient(s: Settings) -> Iterator[str]:
    steering = s.named("kl_target", "kl_horizon")
    if s["kl_controller"] == "fixed" and steering:
        yield f"{steering} would steer an adaptive KL coefficient: set `kl_controller: adaptive`, or remove {steering}."


@problem("kl_controller", "kl_coef")
def steered_coefficient(s: Settings) -> Iterator[str]:
    if s["kl_controller"] == "adaptive" and s["kl_coef"] == 0:
        yield f"{s.where('kl_coef')} is 0, which an adaptive controller cannot scale. Give a number greater than 0."


@note(*CELL, "gamma", "kl_coef")
def gradient(s: Settings) -> Iterator[str]:
    cell = [s[key] for key in CELL]
    try:
        warning = truth_table.warning(*cell, s["gamma"]) if s["kl_coef"] else None
    except ValueError:
        return  # reported as a problem
    if warning is not None:
        yield warning
