"""Restore the given settings of an optimizer after loading a state, which replaces them by those of the checkpoint."""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR


class Rates:
    """Learning rates, weight decays and betas as they were given; `apply` restores them after a state was loaded.

    Args:
        optimizer: Fresh, and its schedule.
    """

    def __init__(self, optimizer: Any, schedule: Any) -> None:
        self.groups = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in optimizer.param_groups
        ]
        self.base = list(getattr(schedule, "base_lrs", []))

    def apply(self, optimizer: Any, schedule: Any) -> None:
        """Set the given settings, at the step of the schedule that was loaded."""
        for group, given in zip(optimizer.param_groups, self.groups, strict=True):
            group.update(given)
        if not isinstance(schedule, LambdaLR):
            return
        schedule.base_lrs = self.base
        rates = [base * share(schedule.last_epoch) for base, share in zip(self.base, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = (
            rates  # what transformers logs until the next step (`tests/trainers/preference/test_resume.py`)
        )
