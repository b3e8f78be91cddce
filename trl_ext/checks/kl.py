"""Rules about PPO's KL: estimator, placement, level, coefficient and controller."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from trl_ext.checks.bounds import NOT_NEGATIVE, out_of_bounds
from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.rl import policy_gradient, step_table, truth_table
from trl_ext.rl.step_table import Step

CONTROLLERS = ("fixed", "adaptive")
BETA_OF_RLOO = 0.05
"""TRL's default of RLOO's KL coefficient, which a complete list of its settings has (`tests/checks/test_ppo.py`)."""

CELL = ("kl_estimator", "kl_placement", "kl_level")
ESTIMATOR_OF_TRL = ("use_bias_correction_kl",)
STEP = (
    "loss_aggregation", "loss_type", "normalize_advantages", "scale_rewards", "importance_sampling_level",
    "policy_objective", "num_generations", "lam",
)  # fmt: skip
"""What `step_of` reads besides the KL, the advantage and `gamma`."""


def estimator(value: Callable[[str], Any]) -> str:
    """The KL estimator that is used. Where it is not set, TRL's `use_bias_correction_kl` chooses it.

    Args:
        value: Gives a setting by its name.
    """
    given = value("kl_estimator")
    return given if given is not None else "k3+" if value("use_bias_correction_kl") else "k3"


def coefficient(value: Callable[[str], Any]) -> float:
    """The KL coefficient that is used: `kl_coef`, or else `beta`. The argument is that of `estimator`."""
    return value("beta") if value("kl_coef") is None else value("kl_coef")


def cell(value: Callable[[str], Any]) -> tuple[str, str, str | None]:
    """Estimator, placement and level. The argument is that of `estimator`."""
    return estimator(value), value("kl_placement"), value("kl_level")


def step_of(value: Callable[[str], Any]) -> Step | None:
    """What decides which gradient an optimizer step estimates; `None` if a name is unknown. The argument is that of `estimator`."""
    try:
        truth_table.check(*cell(value))
        settled, hyperparameters = policy_gradient.settled(value), policy_gradient.hyperparameters(value)
    except (ValueError, KeyError):
        return None  # reported as problems
    return Step(
        *cell(value),
        advantage=value("advantage"),
        aggregation=settled["loss_aggregation"],
        is_whitened=bool(settled["normalize_advantages"]),
        scale_rewards=settled["scale_rewards"] or "group",
        ratio_level=settled[policy_gradient.LEVEL] or "token",
        gamma=hyperparameters.get("gamma", 1.0),
        lam=hyperparameters.get("lam", 1.0),
    )


def kl_in_words(effective: Callable[[str], Any]) -> tuple[str, str]:
    """The KL term in words, and the gradient that it gives and that is left of it in an optimizer step.

    Args:
        effective: Gives a setting by its name.
    """
    estimator, placement, level = cell(effective)
    level = truth_table.check(estimator, placement, level)
    steering = f", steered towards {effective('kl_target')}" if effective("kl_controller") == "adaptive" else ""
    gradient = " ".join(truth_table.GRADIENTS[estimator, placement, level])
    if truth_table.is_exact(estimator, placement, level):
        step = step_of(effective)
        judged = None if step is None else step_table.judge(step)
        if judged is not None and judged.verdict != step_table.EXACT:
            gradient += f"; in an optimizer step: {judged.in_words}"
    return (
        f"{estimator} in the {placement} at {level} level, coefficient {coefficient(effective):g}{steering}",
        gradient,
    )


problem("beta", applies_to=lambda method: method.follows_trl)(partial(out_of_bounds, "beta", NOT_NEGATIVE))


@problem("beta", "kl_coef")
def one_coefficient(s: Settings) -> Iterator[str]:
    if s.method.follows_trl:
        if s["kl_coef"] is not None and s.differs("beta") and s["beta"] != s["kl_coef"]:
            yield (
                f"{s.where('beta')} is {s['beta']} and {s.where('kl_coef')} is {s['kl_coef']}. Both are names of the KL "
                "coefficient: keep one of them."
            )
    elif s["beta"] not in (None, BETA_OF_RLOO):
        yield f"{s.where('beta')} is {s['beta']}: PPO has one KL coefficient, `kl_coef`. Set that and remove `beta`."


@problem(*CELL, also=ESTIMATOR_OF_TRL)
def estimator_and_placement(s: Settings) -> Iterator[str]:
    try:
        truth_table.check(*cell(s.__getitem__))
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


@problem("kl_controller", "kl_coef", also=("beta",))
def steered_coefficient(s: Settings) -> Iterator[str]:
    if s["kl_controller"] == "adaptive" and coefficient(s.__getitem__) == 0:
        yield f"{s.where('kl_coef' if s['kl_coef'] == 0 else 'beta')} is 0, which an adaptive controller cannot scale. Give a number greater than 0."


@note(*CELL, "advantage", "gamma", "kl_coef", also=(*ESTIMATOR_OF_TRL, "beta", *STEP))
def gradient(s: Settings) -> Iterator[str]:
    step = step_of(s.__getitem__) if coefficient(s.__getitem__) else None
    warning = step_table.warning(step) if step is not None else None
    if warning is not None:
        yield warning
