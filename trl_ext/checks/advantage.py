"""Rules about the advantage of a policy gradient, what it reads, and how the losses of tokens are clipped and added up."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.rl import advantages, grpo_losses, policy_gradient
from trl_ext.support.messages import joined, one_of, plain, shown_text

OF_A_CRITIC = ("critic_learning_rate", "vf_coef", "cliprange_value")
"""Settings that only an advantage with a critic reads, besides its hyperparameters."""

CHOICES = {
    "loss_aggregation": policy_gradient.AGGREGATIONS,
    "importance_sampling_level": policy_gradient.LEVELS,
    "scale_rewards": policy_gradient.SCALES,
    "policy_objective": policy_gradient.OBJECTIVES,
}


def declared(s: Settings) -> Any:
    """The declaration of the advantage; `None` for an unknown name, which a rule reports."""
    name = s["advantage"]
    return advantages.describe(name) if isinstance(name, str) and name in advantages.available() else None


def completions_per_prompt(s: Settings) -> int | None:
    """`num_generations`, or its default for the advantage; `None` if that is unknown."""
    if s["num_generations"] is not None:
        return s["num_generations"]
    info = declared(s)
    return None if info is None else policy_gradient.generations(info)


@problem("advantage")
def name(s: Settings) -> Iterator[str]:
    given = s["advantage"]
    if not isinstance(given, str) or given not in advantages.available():
        yield (
            f"{s.where('advantage')} is {shown_text(plain(given))}, and there is no such advantage: "
            f"{one_of(str(given), advantages.available())}"
        )


def choice(key: str, s: Settings) -> Iterator[str]:
    given = grpo_losses.scale(s[key]) if key == "scale_rewards" else s[key]
    if given is not None and given not in CHOICES[key]:
        yield f"{s.where(key)} is {shown_text(plain(given))}: choose one of {', '.join(CHOICES[key])}."


for _key in CHOICES:
    problem(_key)(partial(choice, _key))


@problem("advantage", "num_generations")
def too_few_completions(s: Settings) -> Iterator[str]:
    info, given = declared(s), s["num_generations"]
    if info is not None and info.needs_groups and given == 1:
        yield (
            f"{s.where('num_generations')} is 1, and the advantage {info.name} compares the completions of a prompt with each "
            f"other. Give 2 or more ({policy_gradient.GROUP} by default), or choose an advantage that needs one completion: "
            f"{joined([each for each in advantages.available() if not advantages.describe(each).needs_groups])}."
        )


def hyperparameter(key: str, s: Settings) -> Iterator[str]:
    """A hyperparameter that another advantage reads. A complete list of settings has all of them, at their defaults."""
    info = declared(s)
    if info is None or key in info.hyperparameters or not s.differs(key) or s[key] is None:
        return
    reads = joined([f"`{each}`" for each in info.hyperparameters]) or "no hyperparameters"
    yield (
        f"{s.where(key)} is {plain(s[key])}, and the advantage {info.name} does not read it. {info.name} reads {reads}; "
        f"`{key}` belongs to {joined(list(advantages.readers(key)))}. Remove it, or choose one of these."
    )


for _key in ("gamma", "lam", "scale_rewards"):
    problem("advantage", _key)(partial(hyperparameter, _key))


def of_another_objective(key: str, s: Settings) -> Iterator[str]:
    """A setting of the surrogate that another surrogate reads."""
    read = policy_gradient.OBJECTIVES.get(s["policy_objective"])
    if read is None or key in read or s[key] is None or not s.differs(key):
        return
    reads = joined([f"`{each}`" for each in read]) or "none of these settings"
    others = [name for name, keys in policy_gradient.OBJECTIVES.items() if key in keys]
    yield (
        f"{s.where(key)} is {plain(s[key])}, and the objective {s['policy_objective']} does not read it. "
        f"{s['policy_objective']} reads {reads}; `{key}` belongs to {joined(others)}. Remove it, or choose one of these."
    )


for _key in policy_gradient.OBJECTIVES["clipped"]:
    problem("policy_objective", _key)(partial(of_another_objective, _key))


def of_one_objective(objective: str, key: str, s: Settings) -> Iterator[str]:
    """A setting that bears the name of a surrogate which is not the one that is minimised."""
    given = grpo_losses.translated(s.__getitem__)("policy_objective")
    if given == objective or not s.differs(key):
        return
    chosen = "loss_type" if s["loss_type"] and s["policy_objective"] is None else "policy_objective"
    yield (
        f"{s.where(key)} is {shown_text(plain(s[key]))}, and `{chosen}: {s[chosen]}` does not read it. Remove it, or set "
        f"`{chosen}: {objective}`."
    )


for _objective, _keys in policy_gradient.OF_ONE_OBJECTIVE.items():
    for _key in _keys:
        problem("policy_objective", _key, also=("loss_type",))(partial(of_one_objective, _objective, _key))


@problem("loss_aggregation", "advantage", "max_completion_length", also=("loss_type",))
def constant_length(s: Settings) -> Iterator[str]:
    info = declared(s)
    given = grpo_losses.translated(s.__getitem__)("loss_aggregation") or (info and info.aggregation)
    if given == "constant" and not s["max_completion_length"]:
        default = "" if s["loss_aggregation"] else f" by default for the advantage {info.name}"
        yield (
            f"{s.where('loss_aggregation')} is constant{default}, which divides by `max_completion_length`, and that is not set. "
            "Set it, or choose another aggregation."
        )


@problem("advantage", "use_vllm")
def greedy_by_vllm(s: Settings) -> Iterator[str]:
    info = declared(s)
    if info is not None and info.needs_greedy and s["use_vllm"]:
        yield (
            f"{s.where('advantage')} is {info.name}, which samples a greedy completion of each prompt, and greedy completions "
            f"are not sampled by vLLM here. Remove {s.where('use_vllm')}, or choose another advantage."
        )


@problem("delta", "epsilon", "epsilon_high")
def two_sided(s: Settings) -> Iterator[str]:
    high = s["epsilon"] if s["epsilon_high"] is None else s["epsilon_high"]
    if isinstance(s["delta"], int | float) and isinstance(high, int | float) and s["delta"] <= 1 + high:
        yield (
            f"{s.where('delta')} is {s['delta']:g}. It bounds ratios above the clipping range, so it must be greater than 1 + "
            f"`{'epsilon' if s['epsilon_high'] is None else 'epsilon_high'}` = {1 + high:g}."
        )


def cap_below_one(s: Settings) -> tuple[str, ...]:
    """The setting that caps the ratio of CISPO below 1, where it acts on fresh samples too; none otherwise."""
    if grpo_losses.translated(s.__getitem__)("policy_objective") != "cispo":
        return ()
    key = "epsilon" if s["epsilon_high"] is None and s.method.name == "grpo" else "epsilon_high"  # as in TRL
    return (key,) if isinstance(s[key], int | float) and 0 < s[key] < 1 else ()


@note("policy_objective", "epsilon_high", also=("loss_type",))
def capped_on_fresh_samples(s: Settings) -> Iterator[str]:
    if "epsilon_high" in cap_below_one(s):
        high = s["epsilon_high"]
        yield (
            f"{s.where('epsilon_high')} is {high:g}. The objective cispo caps the ratio π/π_old at this number itself, not at 1 plus "
            f"it, so that every token counts {high:g} at most. Give 1 or more, 5.0 for instance (arXiv:2510.13786)."
        )


@note("advantage", *OF_A_CRITIC)
def without_critic(s: Settings) -> Iterator[str]:
    info = declared(s)
    given = [s.where(key) for key in OF_A_CRITIC if s.differs(key)]
    if info is not None and not info.needs_critic and given:
        have = "has" if len(given) == 1 else "have"
        yield f"{joined(given)} {have} no effect: the advantage {info.name} has no critic."
