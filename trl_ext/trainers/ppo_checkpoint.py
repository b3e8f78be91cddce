"""What PPO leaves behind and goes on from: a plain adapter, the critic beside it, and the rollout in the middle."""

import functools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trl_ext.errors import UserError
from trl_ext.trainers import roles

HEAD = "value_head.safetensors"


class PPOCheckpoint:
    """Mixin before `trl.RLOOTrainer`; overrides `_save`, `_save_checkpoint` and `_load_from_checkpoint`.

    The policy's adapter lies at the root of the folder, so that it loads as any adapter does; the critic's adapter
    and head lie in `critic/`. A checkpoint taken in the middle of a rollout holds the rest of the rollout, which
    could not be sampled again: the policy has moved on. Frozen adapters are no result of the run and are not saved.

    Attributes read: `_step`, `_buffered_inputs`, `kl_controller`.
    """

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        adapters = [roles.POLICY, roles.CRITIC]
        self.model.save_pretrained = functools.partial(self.model.save_pretrained, selected_adapters=adapters)
        try:
            super()._save(output_dir, state_dict)
        finally:
            del self.model.save_pretrained
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir, roles.CRITIC)
            save_file(self.model.value_head.state_dict(), folder / HEAD)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Our own file first: transformers writes its state last, and what has one can be resumed from.
        path = self._state_file(Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        in_the_middle = self._step % (self.args.steps_per_generation * self.num_iterations) != 0
        state = {
            "step": self._step,
            "rollout": self._buffered_inputs if in_the_middle else None,
            "kl_controller": self.kl_controller.state_dict(),
            "schedule": self._schedule(),
        }
        torch.save(state, path)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        for path in (folder / roles.CRITIC / HEAD, self._state_file(folder)):
            if not path.exists():
                raise UserError(
                    f"{folder} cannot be resumed as a PPO run: {path.relative_to(folder)} is missing, and without it the "
                    "critic would start anew against a policy that has moved on. Resume a complete checkpoint, or "
                    "start a new run from its adapter."
                )
        state = torch.load(self._state_file(folder), map_location=self.args.device, weights_only=True)
        was, now = state["schedule"], self._schedule()
        if changed := [f"{name} was {was[name]} and is {now[name]}" for name in now if was[name] != now[name]]:
            raise UserError(
                f"{folder} cannot be resumed with another schedule of rollouts: {', '.join(changed)}. Resume it as it was, "
                "or start a new run from its adapter."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.model.value_head.load_state_dict(load_file(folder / roles.CRITIC / HEAD))
        self._step, self._buffered_inputs = state["step"], state["rollout"]
        self.kl_controller.load_state_dict(state["kl_controller"])

    def _schedule(self) -> dict[str, int]:
        """What decides which rollout a step belongs to, and how it is split."""
        names = (
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "steps_per_generation",
            "num_iterations",
            "num_generations",
        )
        return {name: getattr(self.args, name) for name in names} | {"processes": self.args.world_size}

    def _state_file(self, folder: Path) -> Path:
        return folder / f"ppo_state_{self.args.process_index}.pt"
