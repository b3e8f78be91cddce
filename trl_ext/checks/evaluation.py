"""Rules about evaluations during training: that they take place, and that they give the metric that a run waits for."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from trl_ext.checks.advantage import declared
from trl_ext.checks.kl import coefficient
from trl_ext.checks.rule import is_policy_gradient, note, problem
from trl_ext.checks.settings import Settings
from trl_ext.losses import LossInfo, MixInfo
from trl_ext.methods import Method
from trl_ext.rl.advantages import AdvantageInfo
from trl_ext.support import messages

OF_TRANSFORMERS = ("loss", "runtime", "samples_per_second", "steps_per_second")
"""Metrics of every evaluation."""

BY_REFERENCE = ("log_ratio/", "kl/")
"""How metrics begin that compare policy and reference."""


def happens(s: Settings) -> bool:
    """Whether a run evaluates."""
    return s["eval_strategy"] not in (None, "no")


OF_A_CRITIC = ("values/mean", "returns/mean", "explained_variance")
OF_GROUPS = ("groups/ties", "frac_reward_zero_std")
"""Metrics of an evaluation that only some advantages have."""
OF_A_KL = ("kl/", "kl_loss", "kl_weight/")
"""How metrics of a policy gradient begin that need a KL coefficient other than 0."""


def metrics_of(
    method: Method, loss: LossInfo | MixInfo | None, advantage: AdvantageInfo | None = None, has_kl: bool = True
) -> tuple[str, ...]:
    """Names of the metrics of an evaluation, without the prefix `eval_`; `*` stands for the name of a reward function.

    Args:
        method: The kind of training.
        loss: Declaration of the loss; without it, all metrics that some loss has.
        advantage: Declaration of the advantage; without it, all metrics that some advantage has.
        has_kl: Whether the KL coefficient of a policy gradient is other than 0.
    """
    names = (*OF_TRANSFORMERS, *method.evaluation_metrics)
    if advantage is not None:
        lacking = (() if advantage.needs_critic else OF_A_CRITIC) + (() if advantage.needs_groups else OF_GROUPS)
        names = tuple(name for name in names if name not in lacking)
    if method.has_kl and not has_kl:
        names = tuple(name for name in names if not name.startswith(OF_A_KL))
    if loss is None:
        return names
    absent = () if loss.needs_reference else BY_REFERENCE
    has_baseline = "z_ref" in loss.inputs
    return tuple(name for name in names if not name.startswith(absent) and (name != "kl" or has_baseline))


@problem("metric_for_best_model", applies_to=lambda method: not is_policy_gradient(method), recipe_only=True)
def metric(s: Settings) -> Iterator[str]:
    """A metric that no evaluation has. Code may add metrics (`compute_metrics`) and name its datasets."""
    yield from _unknown_metric(s, metrics_of(s.method, s.loss))


@problem(
    "metric_for_best_model", "advantage", "kl_coef", applies_to=is_policy_gradient, recipe_only=True, also=("beta",)
)
def metric_of_a_policy_gradient(s: Settings) -> Iterator[str]:
    given, has_kl = s["metric_for_best_model"], coefficient(s.__getitem__) != 0
    if not has_kl and isinstance(given, str) and given.removeprefix("eval_").startswith(OF_A_KL):
        yield (
            f"{s.where('metric_for_best_model')} is {messages.shown_text(given)}, which is not measured if the KL coefficient is 0: "
            "no reference is run. Choose another metric, or a coefficient above 0."
        )
        return
    yield from _unknown_metric(s, metrics_of(s.method, s.loss, declared(s), has_kl))


def _unknown_metric(s: Settings, known: tuple[str, ...]) -> Iterator[str]:
    given = s["metric_for_best_model"]
    if not isinstance(given, str) or not given:
        return
    name = given.removeprefix("eval_")
    if not any(fnmatchcase(name, pattern) for pattern in known):
        yield (
            f"{s.where('metric_for_best_model')} is {messages.shown_text(given)}, which no evaluation of {s.method.title} has: "
            f"{messages.one_of(name, [pattern.replace('*', 'NAME') for pattern in known])}"
        )


@problem("load_best_model_at_end", "eval_strategy")
def best_without_evaluation(s: Settings) -> Iterator[str]:
    if s["load_best_model_at_end"] and not happens(s):
        yield (
            f"{s.where('load_best_model_at_end')} needs evaluations to find the best checkpoint: add `eval_strategy: steps` "
            "and `save_strategy: steps`."
        )


@problem("save_strategy", "eval_strategy", "metric_for_best_model", "load_best_model_at_end")
def best_checkpoints(s: Settings) -> Iterator[str]:
    """`save_strategy: best` saves after an evaluation that was better than all before it."""
    if s["save_strategy"] != "best":
        return
    if not happens(s):
        yield (
            f"{s.where('save_strategy')} is best, which saves a checkpoint after each evaluation that is the best so far, and the "
            "run has no evaluations: add `eval_strategy: steps` and rows to evaluate on (`eval_size: 200`)."
        )
    elif not s["metric_for_best_model"] and not s["load_best_model_at_end"]:
        yield (
            f"{s.where('save_strategy')} is best, and no metric says what is best: add `metric_for_best_model: loss`, for "
            "instance."
        )


@problem("load_best_model_at_end", "eval_strategy", "save_strategy", "eval_steps", "save_steps", "logging_steps")
def a_checkpoint_for_each_evaluation(s: Settings) -> Iterator[str]:
    """The best model is loaded from a checkpoint, so that checkpoints are saved where evaluations are."""
    evaluates, saves = s["eval_strategy"], s["save_strategy"]
    if not s["load_best_model_at_end"] or not happens(s) or saves == "best":
        return
    where = s.where("load_best_model_at_end")
    if evaluates != saves:
        yield (
            f"{where} loads the checkpoint of the best evaluation, and `eval_strategy` is {evaluates} while `save_strategy` is "
            f"{saves}: set `save_strategy: {evaluates}`."
        )
        return
    if evaluates != "steps":
        return
    every, saved = s["eval_steps"] or s["logging_steps"], s["save_steps"]
    if not all(isinstance(steps, int | float) and steps > 0 for steps in (every, saved)):
        return
    if (every < 1) != (saved < 1):
        yield (
            f"{where} needs a checkpoint at an evaluation, and `eval_steps` is {every:g} while `save_steps` is {saved:g}: give "
            "both as steps, or both as shares of the run."
        )
    elif not _is_multiple(saved, every):
        key = "eval_steps" if s["eval_steps"] else "logging_steps"
        yield (
            f"{where} needs a checkpoint at an evaluation, and `save_steps` is {saved:g}, which is not a multiple of "
            f"{every:g} (`{key}`): set `save_steps: {every * max(1, round(saved / every)):g}`."
        )


@note("load_best_model_at_end", "metric_for_best_model", applies_to=is_policy_gradient)
def best_by_loss(s: Settings) -> Iterator[str]:
    if s["load_best_model_at_end"] and s["metric_for_best_model"] in (None, "loss", "eval_loss"):
        yield (
            f"{s.where('load_best_model_at_end')} compares losses, and PPO's losses do not measure how good a policy is: set "
            "`metric_for_best_model: score` and `greater_is_better: true`."
        )


@note("metric_for_best_model", "eval_strategy")
def unused_metric(s: Settings) -> Iterator[str]:
    if s["metric_for_best_model"] and not happens(s):
        yield f"{s.where('metric_for_best_model')} has no effect without `eval_strategy`."


@note("do_eval", "eval_strategy", "eval_on_start")
def do_eval(s: Settings) -> Iterator[str]:
    """transformers' trainer does not read it."""
    if s["do_eval"] and "do_eval" in s and not happens(s) and not s["eval_on_start"]:
        yield (
            f"{s.where('do_eval')} has no effect by itself: add `eval_strategy: steps` to evaluate during training, and rows to "
            "evaluate on (`eval_size: 200`)."
        )


@problem("eval_strategy", "eval_delay", "max_steps", "num_train_epochs")
def never_due(s: Settings) -> Iterator[str]:
    """transformers evaluates at the last step too, unless the delay is longer than the run."""
    delay, steps = s["eval_delay"], s["max_steps"]
    if not happens(s) or not isinstance(delay, int | float) or not isinstance(steps, int):
        return
    if s["eval_strategy"] == "epoch":
        length, unit, key = (s["num_train_epochs"], "epochs", "num_train_epochs") if steps < 1 else (None, "", "")
    else:
        length, unit, key = (steps, "steps", "max_steps") if steps > 0 else (None, "", "")
    if isinstance(length, int | float) and delay > length:
        yield (
            f"{s.where('eval_delay')} is {delay:g} {unit}, and the run has {length:g} (`{key}`), so it would never be evaluated. "
            "Lower the delay, or remove it."
        )


def _is_multiple(saved: float, every: float) -> bool:
    """In millionths, as transformers compares shares."""
    return round(saved * 1_000_000) % round(every * 1_000_000) == 0
