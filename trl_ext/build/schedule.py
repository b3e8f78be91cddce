"""Construct the schedule of the learning rate as transformers will, before weights are loaded."""

from typing import Any

import torch
from transformers import get_scheduler

from trl_ext.support.errors import UserError


def require_schedule(args: Any, steps: int) -> None:
    """Construct the schedule on an optimizer of one number, and read the rate of its first, middle and last step.

    `trl_ext.checks.schedules` has refused what it knows; this finds the rest.

    Args:
        args: The trainer's configuration.
        steps: Optimizer steps of the run.

    Raises:
        UserError: transformers or torch refuses it.
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    try:
        schedule = get_scheduler(
            args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        for rate in getattr(schedule, "lr_lambdas", ()):
            for step in (0, steps // 2, steps):
                float(rate(step))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"`lr_scheduler_type` is {name}, and the schedule cannot be made with `lr_scheduler_kwargs` "
            f"{args.lr_scheduler_kwargs or {}}: {str(error).rstrip('.')}. Correct them, or choose another schedule."
        ) from error
