"""Save and load the files that a trainer that samples adds to a checkpoint.

The policy's adapter is saved at the root of the folder, so that it loads like any adapter. A checkpoint taken in the middle
of a rollout contains the rest of the rollout, which could not be sampled again because the policy has changed.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trl_ext.support.errors import UserError
from trl_ext.trainers.rollout import roles

SCHEDULE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_iterations",
    "num_generations",
)
"""Settings that decide which rollout a step belongs to, and how it is split."""


class RolloutFiles:
    """One file per process with the state that transformers does not save; a subclass may add files of its roles.

    Args:
        args: The trainer's configuration.
        method: Name of the method, for messages.
        state_name: Name of the file, without the number of the process and the suffix.

    Attributes:
        adapters: Names of the adapters that are saved. Frozen adapters are not a result of the run.
    """

    adapters: tuple[str, ...] = (roles.POLICY,)

    def __init__(self, args: Any, method: str, state_name: str) -> None:
        self.args = args
        self.method = method
        self.state_name = state_name

    def save_state(self, folder: Path, *, step: int, rollout: list[dict] | None, update: dict[str, Any]) -> None:
        """Write the state of this process.

        Args:
            folder: The checkpoint.
            step: Number of micro-batches so far.
            rollout: The current rollout, in micro-batches; saved only if a later step needs it.
            update: `RolloutUpdate.state_dict()`.
        """
        in_the_middle = step % (self.args.steps_per_generation * self.args.num_iterations) != 0
        state = {"step": step, "rollout": rollout if in_the_middle else None, "schedule": self._schedule()}
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state | update, self._state_file(folder))

    def load_state(self, folder: Path) -> dict[str, Any]:
        """Load the state of this process onto its device.

        Raises:
            UserError: A file is missing, or the schedule of rollouts was different.
        """
        path = self._state_file(folder)
        self._require(folder, path, "its rollout cannot be continued")
        # With several CPU processes the device is cpu:0, which torch cannot load onto.
        device = "cpu" if self.args.device.type == "cpu" else self.args.device
        state = torch.load(path, map_location=device, weights_only=True)
        was, now = state["schedule"], self._schedule()
        if changed := [f"{name} was {was[name]} and is {now[name]}" for name in now if was[name] != now[name]]:
            raise UserError(
                f"{folder} cannot be resumed with another schedule of rollouts: {', '.join(changed)}. Resume it with the "
                "same settings, or start a new run from its adapter."
            )
        return state

    def save_roles(self, model: nn.Module, folder: Path) -> None:
        """Save parts of roles that are not in the adapters."""

    def load_roles(self, model: nn.Module, folder: Path) -> None:
        """Load parts of roles that are not in the adapters."""

    def _require(self, folder: Path, file: Path, consequence: str) -> None:
        if not file.exists():
            raise UserError(
                f"{folder} cannot be resumed as a run of {self.method}: {file.relative_to(folder)} is missing. Without it, "
                f"{consequence}. Resume a complete checkpoint, or start a new run from its adapter."
            )

    def _schedule(self) -> dict[str, int]:
        return {name: getattr(self.args, name) for name in SCHEDULE} | {"processes": self.args.world_size}

    def _state_file(self, folder: Path) -> Path:
        return folder / f"{self.state_name}_{self.args.process_index}.pt"
