"""What a trainer that samples leaves behind and goes on from: a plain adapter, and the rollout in the middle."""

from pathlib import Path
from typing import Any

import torch

from trl_ext.support.errors import UserError
from trl_ext.trainers.common import lora
from trl_ext.trainers.rollout import roles

SCHEDULE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_iterations",
    "num_generations",
)
"""What decides which rollout a step belongs to, and how it is split."""


class RolloutCheckpoint:
    """Mixin before `trl.RLOOTrainer`; overrides `_save`, `_save_checkpoint` and `_load_from_checkpoint`.

    The policy's adapter lies at the root of the folder, so that it loads as any adapter does. A checkpoint taken in the
    middle of a rollout holds the rest of the rollout, which could not be sampled again: the policy has moved on. Frozen
    adapters are no result of the run and are not saved.

    Attributes read: `_name`, `_step`, `_buffered_inputs`, and `_part_size` of `MicroBatches`.
    """

    _saved_adapters: tuple[str, ...] = (roles.POLICY,)
    _state_name: str  # of the file, without the process's number

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with lora.saved_alone(self.model, *self._saved_adapters):
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Our own file first: transformers writes its state last, and what has one can be resumed from.
        path = self._state_file(Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self._run_state(), path)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        path = self._state_file(folder)
        if not path.exists():
            raise self._incomplete(folder, path, "the rollout it was taken in could not go on")
        # On several CPU processes the device is cpu:0, a place that torch stores to and does not load from.
        device = "cpu" if self.args.device.type == "cpu" else self.args.device
        state = torch.load(path, map_location=device, weights_only=True)
        was, now = state["schedule"], self._schedule()
        if changed := [f"{name} was {was[name]} and is {now[name]}" for name in now if was[name] != now[name]]:
            raise UserError(
                f"{folder} cannot be resumed with another schedule of rollouts: {', '.join(changed)}. Resume it as it was, "
                "or start a new run from its adapter."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._set_run_state(state)

    def _run_state(self) -> dict[str, Any]:
        """What transformers does not keep, as tensors and plain values."""
        in_the_middle = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        rollout = self._buffered_inputs if in_the_middle else None
        found = {"step": self._step, "rollout": rollout, "schedule": self._schedule()}
        return found | {"part_size": self._part_size}

    def _set_run_state(self, state: dict[str, Any]) -> None:
        self._step, self._buffered_inputs = state["step"], state["rollout"]
        self._part_size = state.get("part_size")  # older checkpoints have none

    def _incomplete(self, folder: Path, missing: Path, consequence: str) -> UserError:
        return UserError(
            f"{folder} cannot be resumed as a run of {self._name}: {missing.relative_to(folder)} is missing, and without "
            f"it {consequence}. Resume a complete checkpoint, or start a new run from its adapter."
        )

    def _schedule(self) -> dict[str, int]:
        return {name: getattr(self.args, name) for name in SCHEDULE} | {"processes": self.args.world_size}

    def _state_file(self, folder: Path) -> Path:
        return folder / f"{self._state_name}_{self.args.process_index}.pt"
