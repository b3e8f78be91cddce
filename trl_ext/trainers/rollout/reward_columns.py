"""Compare the parameters of reward functions with the columns of the data, before weights are loaded."""

import inspect
from typing import Any

from torch import nn

from trl_ext.checks.reward_names import NOT_PASSED, PASSED, without_column
from trl_ext.support.messages import joined
from trl_ext.trainers.rollout.reward_functions import get_callable_name

OF_TRL = ("prompt", "image", "images")
"""Columns that TRL keeps with `remove_unused_columns: true`."""


def problem(sources: list, args: Any, train: Any, evaluation: Any = None) -> str | None:
    """A sentence about a reward function that cannot be called with the columns of the data; `None` if all can.

    Args:
        sources: Reward functions and models; models read no column.
        args: The trainer's configuration.
        train: The training data.
        evaluation: A dataset to evaluate on, or a mapping of them.
    """
    several = [*evaluation.values()] if isinstance(evaluation, dict) else [evaluation]
    for title, data in (("the training data", train), *(("the data to evaluate on", each) for each in several)):
        columns = getattr(data, "column_names", None)
        if columns is None:  # of a stream, or of the user's own class
            continue
        kept = {*columns} & {*OF_TRL} if args.remove_unused_columns else {*columns}
        for source in sources:
            if not isinstance(source, (str, nn.Module)) and (found := _problem(source, kept - NOT_PASSED, title)):
                return found
    return None


def _problem(function: Any, columns: set[str], data: str) -> str | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C
        return None
    name = f"The reward function {get_callable_name(function)}"
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    for each in named:
        if each.default is each.empty and each.name not in PASSED | columns:
            return without_column(name, each.name, columns, data)
    unknown = (PASSED | columns) - {each.name for each in named}
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters):
        return (
            f"{name} does not accept {joined(sorted(unknown))}. A reward function is called with these arguments, of which the "
            f"columns come from {data}: add **kwargs to its signature."
        )
    return None
