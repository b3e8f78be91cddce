"""Keep the running values of a loss from step to step, such as BCO's mean reward: update them, and save and restore them.

A loss reads the values as the step before left them. A coupled loss reads them as updated by the step itself, whose examples are
all scored before it is evaluated. They are numbers, equal on all processes, so that a resumed run continues with the same bits.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from trl_ext.support.errors import UserError


class LossState:
    """Running values of a loss; without any, every method does nothing.

    Args:
        loss: One of `trl_ext.losses`.

    Attributes:
        values: Now, as `loss.next_state` gives them.
        is_started: Whether they are no longer those before the first step.
    """

    def __init__(self, loss: Any) -> None:
        self.loss = loss
        self.values: dict[str, Any] = loss.initial_state
        self.is_started = False
        self._seen: list[dict[str, Tensor]] | None = None  # rows of a training step, or `None` outside of one
        self._is_whole = False

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Context of an attempt at a training step. The rows of an earlier attempt are forgotten."""
        self._seen, self._is_whole = [], False
        try:
            yield
        except BaseException:
            self._seen = None
            raise

    def see(self, tensors: Mapping[str, Tensor], *, is_whole: bool = False) -> None:
        """Note the tensors of a row of the step.

        Args:
            tensors: `loss.inputs` among others, (B,) or scalars.
            is_whole: They are all examples of the step, over all processes.
        """
        if self.values and self._seen is not None:
            self._seen.append(exact(tensors, self.loss.inputs))
            self._is_whole = is_whole

    def read(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The values that the loss of these tensors reads."""
        if not self.values or not self.loss.coupled or self._seen is None:
            return self.values
        return self._finite(self.loss.next_state(self.values, **exact(tensors, self.loss.inputs)))

    def advance(self, accelerator: Accelerator) -> None:
        """Update the values by the step that was observed. Every process has to call this."""
        seen, self._seen = self._seen, None
        if self.values and seen is not None:
            whole = joined(seen) if self._is_whole else gathered(seen, accelerator)
            self.values = self._finite(self.loss.next_state(self.values, **whole))
            self.is_started = True

    def start(self, tensors: dict[str, Tensor]) -> None:
        """Compute the values before the first step from the training set.

        Args:
            tensors: `loss.inputs` of all its examples.
        """
        self.values, self.is_started = self.loss.first_state(self.values, **tensors), True

    def restore(self, saved: dict[str, Any] | None, checkpoint: Any) -> None:
        """Continue with the values of a checkpoint.

        Raises:
            UserError: It has no values of this loss.
        """
        if names(saved or {}) != names(self.values):
            kept = ", ".join(names(saved or {})) or "none"
            raise UserError(
                f"{checkpoint} has other running values than the loss {self.loss.name} keeps ({', '.join(names(self.values)) or 'none'}): "
                f"{kept}. Resume with the loss of the checkpoint, or start a new run."
            )
        self.values, self.is_started = saved or {}, True

    def metrics(self) -> dict[str, float]:
        """The values by the names under which they are logged."""
        return {f"loss_state/{name}": value for name, value in flat(self.values).items()}

    def _finite(self, new: dict[str, Any]) -> dict[str, Any]:
        """The new values; the old ones after a step whose values are not finite."""
        return new if all(map(math.isfinite, flat(new).values())) else self.values


def joined(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of several rows as those of one; scalars are those of the step, equal in all rows."""
    return {name: value if value.ndim == 0 else torch.cat([r[name] for r in rows]) for name, value in rows[0].items()}


def gathered(rows: list[dict[str, Tensor]], accelerator: Accelerator) -> dict[str, Tensor]:
    """Tensors of the rows of all processes, in the order of the processes."""
    return joined(gather_object(rows) if accelerator.num_processes > 1 else rows)


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """Values of a loss by name; those of a mix as `component/name`."""
    found = {}
    for name, value in values.items():
        found |= {f"{name}/{n}": v for n, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return found


def names(values: Mapping[str, Any]) -> list[str]:
    """Names of the values, as `flat` spells them."""
    return sorted(flat(values))


def exact(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors of these names on the CPU without gradient, in float64 if they are floating-point."""
    found = {name: tensors[name].detach().cpu() for name in names}
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
