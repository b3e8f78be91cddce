"""Rules about the schedule of the learning rate and its `lr_scheduler_kwargs`, which transformers reads after weights are loaded.

The arguments that each schedule takes are read from the source of transformers and torch, as the trackers are.
`trl_ext.build.schedule` constructs the schedule of a run.
"""

import ast
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from trl_ext.checks import installed_source
from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.support import messages

GIVEN = {"self", "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
"""Arguments that transformers gives itself."""

CLASSES = {
    "get_reduce_on_plateau_schedule": ("torch", "optim/lr_scheduler.py", "ReduceLROnPlateau"),
    "get_greedy_schedule": ("transformers", "optimization.py", "GreedyLR"),
}
"""Functions of transformers that pass everything on to a class, and where it is defined."""

WITHOUT_ARGUMENTS = ("constant", "constant_with_warmup")
"""Schedules for which transformers does not read `lr_scheduler_kwargs`."""

BY_EVALUATION = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow the metric of evaluations."""

WORDS = {
    ("warmup_stable_decay", "warmup_type"): ("linear", "cosine", "1-sqrt"),
    ("warmup_stable_decay", "decay_type"): ("linear", "cosine", "1-sqrt"),
    ("reduce_lr_on_plateau", "mode"): ("min", "max"),
    ("reduce_lr_on_plateau", "threshold_mode"): ("rel", "abs"),
    ("greedy", "mode"): ("min", "max"),
    ("greedy", "threshold_mode"): ("rel", "abs"),
}
"""Arguments that are words, and the words allowed."""

SWITCHES = {("greedy", "verbose"), ("greedy", "smooth")}
"""Arguments that are true or false."""


class Arguments(NamedTuple):
    """The arguments of a schedule: their defaults by name, and those that have to be given."""

    defaults: dict[str, Any]
    required: tuple[str, ...]


@problem("lr_scheduler_kwargs")
def mapping(s: Settings) -> Iterator[str]:
    given = s["lr_scheduler_kwargs"]
    if isinstance(given, str) and not _given(s):
        yield (
            f"{s.where('lr_scheduler_kwargs')} is {messages.shown(given)}: write a mapping, for instance "
            "`lr_scheduler_kwargs: {num_cycles: 2}`."
        )


@problem("lr_scheduler_type", "lr_scheduler_kwargs", "max_steps")
def arguments(s: Settings) -> Iterator[str]:
    """Names and values of the arguments of the schedule."""
    name, given = _name(s), _given(s)
    known = arguments_of(name)
    if known is None or name in WITHOUT_ARGUMENTS:
        return
    where = s.where("lr_scheduler_kwargs")
    allowed = (*known.required, *known.defaults)
    for key, value in given.items():
        if key not in allowed:
            what = messages.one_of(str(key), allowed) if allowed else "it takes none. Remove it."
            yield f"{where} has `{messages.shown_text(str(key))}`, which the schedule {name} does not take: {what}"
        elif (kind := _kind_problem(name, key, value)) is not None:
            yield f"`{key}` in {where} is {messages.shown(value)}: give {kind}."
    for key in known.required:
        if given.get(key) is None:
            yield (
                f"{_where_type(s)} is {name}, which needs `{key}`: add `lr_scheduler_kwargs: {{{key}: {_tenth(s)}}}`, for instance."
            )


@problem("lr_scheduler_type", "lr_scheduler_kwargs")
def one_minimum(s: Settings) -> Iterator[str]:
    """The minimum of a cosine is given once, as a rate or as a share of the first rate."""
    name, given = _name(s), _given(s)
    known = arguments_of(name)
    if not name.startswith("cosine") or known is None or "min_lr_rate" not in known.defaults:
        return
    number = sum(given.get(key) is not None for key in ("min_lr", "min_lr_rate"))
    if number == 0:
        yield (
            f"{_where_type(s)} is {name}, which needs the rate it ends at: add `lr_scheduler_kwargs: {{min_lr_rate: 0.1}}` for a "
            "tenth of `learning_rate`, or `min_lr` for the rate itself."
        )
    elif number == 2:
        yield f"{s.where('lr_scheduler_kwargs')} has `min_lr` and `min_lr_rate`, which say the same: keep one of them."


@problem("lr_scheduler_type", "lr_scheduler_kwargs", "learning_rate")
def ends_below_its_start(s: Settings) -> Iterator[str]:
    """A rate to end at that is above the first one makes the schedule rise, or an error in training."""
    name, given, rate = _name(s), _given(s), s["learning_rate"]
    key = {"polynomial": "lr_end"}.get(name, "min_lr")
    known = arguments_of(name)
    if known is None or key not in known.defaults or not _is_number(rate) or rate <= 0:
        return
    lowest = given.get(key, known.defaults[key])
    if _is_number(lowest) and (lowest > rate or (name == "polynomial" and lowest == rate)):
        is_given = key in given
        whose = f"`{key}` in {s.where('lr_scheduler_kwargs')} is {lowest:g}"
        if not is_given:
            whose = f"{_where_type(s)} is {name}, whose `{key}` is {lowest:g} by default"
        yield (
            f"{whose}, and `learning_rate` is {rate:g}: the schedule has to end below the rate it starts from. Set "
            f"`lr_scheduler_kwargs: {{{key}: {rate / 10:.2g}}}`, for instance."
        )


@problem("lr_scheduler_type", "eval_strategy")
def needs_evaluations(s: Settings) -> Iterator[str]:
    name = _name(s)
    if name in BY_EVALUATION and s["eval_strategy"] in (None, "no"):
        yield (
            f"{_where_type(s)} is {name}, which changes the rate after evaluations, and the run has none: add "
            "`eval_strategy: steps` and rows to evaluate on (`eval_size: 200`)."
        )


@problem("lr_scheduler_type", "lr_scheduler_kwargs", "metric_for_best_model", "greater_is_better")
def right_direction(s: Settings) -> Iterator[str]:
    """torch takes a smaller metric for the better one unless it is told."""
    name, given, metric = _name(s), _given(s), s["metric_for_best_model"]
    if name not in BY_EVALUATION or not isinstance(metric, str) or given.get("mode") is not None:
        return
    greater = s["greater_is_better"]
    if greater or (greater is None and not metric.endswith("loss")):
        yield (
            f"{_where_type(s)} is {name}, which lowers the rate when the metric stops falling, and a greater "
            f"{messages.shown_text(metric)} is better: add `lr_scheduler_kwargs: {{mode: max}}`, or `greater_is_better: false`."
        )


@problem("lr_scheduler_type", "lr_scheduler_kwargs", "max_steps", "warmup_steps")
def phases_fit(s: Settings) -> Iterator[str]:
    """The phases of warmup_stable_decay have to fit into the steps of the run."""
    if _name(s) != "warmup_stable_decay" or not _is_number(s["max_steps"]) or s["max_steps"] < 1:
        return
    total, warmup = s["max_steps"], s["warmup_steps"] or 0
    warmup = math.ceil(total * warmup) if 0 < warmup < 1 else warmup
    given = _given(s)
    parts = {key: given.get(key) or 0 for key in ("num_stable_steps", "num_decay_steps")}
    if all(map(_is_number, parts.values())) and warmup + sum(parts.values()) > total:
        phases = {"warmup_steps": warmup} | parts
        sums = " + ".join(f"{value:g} (`{key}`)" for key, value in phases.items() if value)
        yield (
            f"{_where_type(s)} is {_name(s)}, and its phases of {sums} steps are longer than the run of {total:g} steps "
            "(`max_steps`). Shorten a phase, or raise `max_steps`."
        )


@note("lr_scheduler_type", "lr_scheduler_kwargs")
def unread_arguments(s: Settings) -> Iterator[str]:
    if _name(s) in WITHOUT_ARGUMENTS and _given(s):
        yield f"{s.where('lr_scheduler_kwargs')} has no effect: the schedule {_name(s)} takes none."


@note("max_steps", "warmup_steps")
def only_warmup(s: Settings) -> Iterator[str]:
    total, warmup = s["max_steps"], s["warmup_steps"]
    if _is_number(total) and _is_number(warmup) and 1 <= total <= warmup:
        yield (
            f"{s.where('warmup_steps')} is {warmup:g}, and `max_steps` is {total:g}: the learning rate never "
            "reaches `learning_rate`."
        )


@lru_cache
def arguments_of(schedule: str) -> Arguments | None:
    """The arguments that a schedule takes; `None` if transformers has no such schedule."""
    function = _functions().get(schedule)
    if function is None:
        return None
    package, file, name = CLASSES.get(function, ("transformers", "optimization.py", function))
    node = installed_source.find(installed_source.parse(package, file), name)
    if isinstance(node, ast.ClassDef):
        node = installed_source.find(node, "__init__")
    names = [arg.arg for arg in node.args.args]
    first = len(names) - len(node.args.defaults)
    defaults = {key: _literal(value) for key, value in zip(names[first:], node.args.defaults, strict=True)}
    required = tuple(key for key in names[:first] if key not in GIVEN)
    return Arguments({key: value for key, value in defaults.items() if key not in GIVEN}, required)


@lru_cache
def _functions() -> dict[str, str]:
    """The function of transformers that makes each schedule, by the name of the schedule."""
    names = installed_source.find(installed_source.parse("transformers", "trainer_utils.py"), "SchedulerType")
    values = {part.targets[0].id: part.value.value for part in names.body if isinstance(part, ast.Assign)}
    for node in installed_source.parse("transformers", "optimization.py").body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "TYPE_TO_SCHEDULER_FUNCTION":
            return {values[key.attr]: value.id for key, value in zip(node.value.keys, node.value.values, strict=True)}
    raise LookupError("transformers/optimization.py has no table of schedules: is another version installed?")


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


def _kind_problem(schedule: str, key: str, value: Any) -> str | None:
    """What to give instead of a value of the wrong kind."""
    words = WORDS.get((schedule, key))
    if value is None:
        return None
    if words:
        return None if value in words else " or ".join(f"'{word}'" for word in words)
    if (schedule, key) in SWITCHES:
        return None if isinstance(value, bool) else "true or false"
    if schedule in BY_EVALUATION and key in ("min_lr", "max_lr") and isinstance(value, list):
        return None if value and all(map(_is_number, value)) else "a number"
    if not _is_number(value) or not math.isfinite(value):
        return "a number"
    if key == "factor" and not 0 < value < 1:
        return "a number between 0 and 1"
    return "a number of at least 0" if value < 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(s: Settings) -> str:
    return str(s["lr_scheduler_type"] or "linear")


def _given(s: Settings) -> dict[str, Any]:
    """The arguments, which may be JSON as for transformers' parser; empty if they are neither."""
    given = s["lr_scheduler_kwargs"]
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {}
    return given if isinstance(given, dict) else {}


def _where_type(s: Settings) -> str:
    return s.where("lr_scheduler_type")


def _tenth(s: Settings) -> int:
    """A tenth of the steps, as an example of a phase."""
    total = s["max_steps"]
    return max(1, int(total) // 10) if _is_number(total) and total > 0 else 100
