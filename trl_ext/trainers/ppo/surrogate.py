"""Choose the loss of the policy per token by the settings of a trainer."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from trl_ext.rl import objectives
from trl_ext.rl.objectives import ClippedLoss

SETTINGS = {"level": "importance_sampling_level"}
"""Settings whose name is not that of the parameter."""


def surrogate(args: Any) -> Callable[..., ClippedLoss]:
    """The loss that `policy_objective` names, of `logps, old_logps, advantages, mask`, (B, C) each.

    A parameter gets the setting of its name, or that with the objective in front, as in TRL (`sapo_temperature_pos`). One
    without a setting, or whose setting is `None`, has the default of the objective.
    """
    function = objectives.SURROGATES[args.policy_objective]
    given = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        names = (SETTINGS.get(parameter.name, parameter.name), f"{args.policy_objective}_{parameter.name}")
        values = (getattr(args, name, None) for name in names)
        given[parameter.name] = next((value for value in values if value is not None), parameter.default)
    return partial(function, **given)
