"""Rules about `evaluation`, what a run evaluates at its end. What eval's flags can say as well is judged by `evaluation_parts`."""

from collections.abc import Iterator
from typing import Any

from trl_ext.checks import evaluation_parts, judge_source, known_tasks, packages, reward_names
from trl_ext.checks.evaluation_parts import JUDGE, PREFERENCES, TASKS
from trl_ext.checks.judge_api import KEY_VARIABLE
from trl_ext.checks.rule import note, problem, requirement
from trl_ext.checks.settings import Settings
from trl_ext.methods import Method
from trl_ext.model_files import adapter


def trains_a_policy(method: Method) -> bool:
    return not method.trains_scores


def _values(s: Settings) -> dict[str, Any] | None:
    """The block; `None` if there is none."""
    return s["evaluation"] if isinstance(s["evaluation"], dict) else None


def _is_whole(s: Settings) -> bool:
    """Whether all entries of the block could be read."""
    return not any(key.startswith("evaluation.") for key in s.reported)


def _where(s: Settings) -> evaluation_parts.Where:
    return lambda key: s.where(f"evaluation.{key}")


@problem("evaluation", applies_to=lambda method: method.trains_scores, recipe_only=True)
def of_a_reward_model(s: Settings) -> Iterator[str]:
    if isinstance(s["evaluation"], dict):
        yield (
            f"{s.where('evaluation')} compares what a model writes with what its base writes, and `trainer: {s.method.name}` trains "
            "scores: it writes nothing. Remove it. `eval_strategy: steps` measures the accuracy on held-out pairs."
        )


@problem("evaluation", "model_name_or_path", applies_to=trains_a_policy, recipe_only=True)
def settings(s: Settings) -> Iterator[str]:
    if (values := _values(s)) is not None:
        base = adapter.base_name(s["model_name_or_path"])
        yield from evaluation_parts.problems(values, _where(s), base, is_whole=_is_whole(s))


@problem(
    "evaluation",
    "eval_size",
    applies_to=lambda method: trains_a_policy(method) and not method.is_default,
    recipe_only=True,
)
def no_preferences_held_out(s: Settings) -> Iterator[str]:
    """A part of the data that is held out is of the kind that the trainer reads."""
    values = _values(s)
    if (
        values is None
        or not _is_whole(s)
        or evaluation_parts.parts(values) != [PREFERENCES]
        or values.get("dataset")
        or values.get("split")
    ):
        return
    if s["eval_size"]:
        yield (
            f"{s.where('evaluation')} measures held-out preferences, and {s.where('eval_size')} of `trainer: {s.method.name}` holds "
            "rows without preferences out. Name a judge (`evaluation.judge`), tasks (`evaluation.tasks`), or pairs "
            "(`evaluation.dataset`)."
        )


@problem("env", recipe_only=True)
def key_in_the_environment(s: Settings) -> Iterator[str]:
    """The recipe is copied into the run directory, and a card may quote it."""
    if isinstance(s["env"], dict) and KEY_VARIABLE in s["env"]:
        yield (
            f"{s.where('env')} sets {KEY_VARIABLE}. A recipe is copied into the run directory, so a key must not be in it. Remove "
            f"the entry, and set the environment variable before the command: `export {KEY_VARIABLE}=…`."
        )


@requirement("evaluation", applies_to=trains_a_policy)
def client(s: Settings) -> Iterator[str]:
    values = _values(s) or {}
    asked = [name for name in evaluation_parts.judges(values) if judge_source.parse(name).kind == "api"]
    if asked and not packages.is_installed("openai"):
        yield (
            f"{_where(s)(JUDGE)} is {asked[0]}, which needs a package that is not installed here. Run `pip install openai`, or remove "
            "the judge."
        )


@requirement("evaluation", applies_to=trains_a_policy)
def harness(s: Settings) -> Iterator[str]:
    values = _values(s) or {}
    if values.get(TASKS) is not None and not packages.is_installed(known_tasks.PACKAGE):
        yield f"{_where(s)(TASKS)} needs a package that is not installed here. Run `pip install lm-eval`, or remove the tasks."


@note("evaluation", applies_to=trains_a_policy, recipe_only=True)
def code_that_will_run(s: Settings) -> Iterator[str]:
    values = _values(s) or {}
    named = [judge_source.parse(name) for name in evaluation_parts.judges(values)]
    functions = [source.place for source in named if source.kind == "function"] + [
        *map(str, values.get("reward_funcs") or [])
    ]
    for name in functions:
        if reward_names.is_users_code(name) and reward_names.problem(name) is None:
            yield reward_names.statement(name).replace("Reward:", "Evaluation:", 1)
