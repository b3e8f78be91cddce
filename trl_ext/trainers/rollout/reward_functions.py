"""Check the return values of reward functions, and report their exceptions with file and line.

Reward functions are the user's code. TRL takes a number, or `None` where a function does not apply. It treats NaN as
`None`, so completions of a function that divides by zero would silently be left out; here NaN stops the run.
"""

import functools
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trl.trainer.utils import get_callable_name, get_config_model_id, is_async_callable

from trl_ext.support import counts
from trl_ext.support.errors import UserError
from trl_ext.support.memory_errors import is_out_of_memory
from trl_ext.trainers.rollout import failing_row
from trl_ext.trainers.rollout.reward_adapter import RewardAdapter

WANTED = "It must return a list with one number per completion, or None for completions it does not apply to."

LARGEST = torch.finfo(torch.float32).max
"""Of the numbers of a reward, which TRL keeps in float32."""

EXCERPT = 60
"""Characters of a prompt or completion that a message quotes."""


def listed(reward_funcs: Any) -> list:
    """Zero, one or several sources of rewards, as a list."""
    if reward_funcs is None:
        return []
    return [*reward_funcs] if isinstance(reward_funcs, list) else [reward_funcs]


def complete(sources: list, args: Any, model: Any, processing_classes: Any) -> tuple[list, RewardAdapter | None, Any]:
    """All sources as TRL's trainer takes them: functions wrapped in checks, the reward adapter of `args` last.

    Args:
        sources: Reward functions and models.
        args: The trainer's configuration.
        model: The policy, or its path. The reward adapter must belong to its base.
        processing_classes: Of the sources, as TRL takes them.

    Returns:
        The sources; the reward adapter among them, or `None`; and their processing classes.
    """
    sources = [checked(source) for source in sources]
    if args.reward_adapter is None:
        return sources, None, processing_classes
    adapter = RewardAdapter(
        args.reward_adapter, model if isinstance(model, str) else get_config_model_id(model.config)
    )
    if isinstance(processing_classes, list):
        processing_classes = [*processing_classes, None]
    return [*sources, adapter], adapter, processing_classes


def checked(function: Any) -> Any:
    """Wrap a reward function in checks, under the same name, synchronous or not; TRL calls it by keywords.

    Reward models and their names are returned unchanged.

    Raises (when called):
        UserError: The function raised, or did not return a number or `None` for each completion.
    """
    if isinstance(function, (str, nn.Module)):
        return function
    name = get_callable_name(function)

    if is_async_callable(function):

        async def call(**kwargs: Any) -> list[float | None]:
            with _naming(name, kwargs):
                returned = await function(**kwargs)
                returned = [*returned] if isinstance(returned, Iterator) else returned  # a generator may raise
            return judged(name, returned, len(kwargs["prompts"]))

    else:

        def call(**kwargs: Any) -> list[float | None]:
            with _naming(name, kwargs):
                returned = function(**kwargs)
                returned = [*returned] if isinstance(returned, Iterator) else returned  # a generator may raise
            return judged(name, returned, len(kwargs["prompts"]))

    functools.update_wrapper(call, function)
    call.__name__ = name
    return call


def check_models(sources: list, names: list[str], rewards: Tensor) -> None:
    """Check that reward models scored every completion: they always apply, so NaN is an error.

    Args:
        sources, names: All reward sources; functions of the user are skipped.
        rewards: (B, sources), NaN where a source does not apply.

    Raises:
        UserError: A score is not finite.
    """
    for source, name, column in zip(sources, names, rewards.T, strict=True):
        if isinstance(source, (nn.Module, RewardAdapter)) and not column.isfinite().all():
            lost = (~column.isfinite()).sum().item()
            raise UserError(
                f"The reward model {name} scored {lost} of {counts.count(len(column), 'completions')} as NaN or infinite. Either it overflows "
                "in this precision, or its weights are damaged. Try another dtype, or another copy of the weights."
            )


def judged(name: str, returned: Any, count: int) -> list[float | None]:
    """Convert the return value of a reward function for `count` completions to numbers and `None`.

    Raises:
        UserError: It has another type or length, or contains something else.
    """
    is_list = hasattr(returned, "__iter__") and not isinstance(returned, (str, bytes, dict, set, frozenset))
    if not is_list or getattr(returned, "ndim", 1) == 0:
        raise UserError(
            f"The reward function {name} returned {_shown(returned)} for {counts.count(count, 'completions')}. {WANTED}"
        )
    found = list(returned)
    if len(found) != count:
        raise UserError(
            f"The reward function {name} returned {counts.count(len(found), 'rewards')} for {counts.count(count, 'completions')}. {WANTED}"
        )
    rewards = [None if value is None else _number(value) for value in found]
    for i, reward in enumerate(rewards):
        if reward is None or abs(reward) <= LARGEST:
            continue
        size = f" Rewards are float32, whose largest number is {LARGEST:.1e}." if math.isfinite(reward) else ""
        raise UserError(
            f"The reward function {name} returned {_shown(found[i])} for completion {i + 1} of {count}. {WANTED}{size}"
        )
    return rewards


def _number(value: Any) -> float:
    """The value as a float; NaN if it is not a number."""
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 0):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
    except OverflowError:  # an integer beyond float64
        return math.inf


def _shown(value: Any) -> str:
    """A value for a message: itself if it is short, else its type."""
    text = " ".join(repr(value).split())
    kind = type(value).__name__
    return text if len(text) <= 40 else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


@contextmanager
def _naming(name: str, kwargs: dict[str, Any]) -> Iterator[None]:
    """Inside, an exception of the function becomes a `UserError` with its place; the exception stays chained to it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise  # the caller names the phase
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"The reward function {name} failed on {_row(error, kwargs)} with {what.rstrip('.')}{_place(error, kwargs)}."
        ) from error


def _row(error: Exception, kwargs: dict[str, Any]) -> str:
    """The completion that the function looked at when it raised, if that is known, else the number of completions."""
    count = len(kwargs["prompts"])
    row = failing_row.find(error, kwargs)
    if row is None:
        return counts.count(count, "completions")
    return f"completion {row + 1} of {count} ({_excerpt(kwargs['completions'][row])}, prompt {_excerpt(kwargs['prompts'][row])})"


def _excerpt(value: Any) -> str:
    """The beginning of a text, or of the last message."""
    text = value[-1].get("content") if isinstance(value, list) and value and isinstance(value[-1], dict) else value
    text = " ".join(str(text).split())
    return repr(text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…")


def _place(error: Exception, kwargs: dict[str, Any]) -> str:
    """File and line of the user's code that raised; the arguments passed, if the call itself failed."""
    frames = traceback.extract_tb(error.__traceback__)[2:]  # without this file's: the context and the call
    if not frames:
        return f". It is called with {', '.join(kwargs)}: add **kwargs to its parameters"
    last = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f", in line {last.lineno} of {last.filename}"
