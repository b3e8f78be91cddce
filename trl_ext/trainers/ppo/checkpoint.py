"""What PPO leaves behind besides its rollout: the critic, and where the KL coefficient stands."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.checkpoint import RolloutCheckpoint

HEAD = "value_head.safetensors"


class PPOCheckpoint(RolloutCheckpoint):
    """The critic's adapter and head lie in `critic/`, beside the policy's adapter at the root.

    Overrides `_save` and `_load_from_checkpoint` besides. Attributes read besides: `kl_controller`.
    """

    _saved_adapters = (roles.POLICY, roles.CRITIC)
    _state_name = "ppo_state"

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir, roles.CRITIC)
            save_file(self.model.value_head.state_dict(), folder / HEAD)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        head = folder / roles.CRITIC / HEAD
        if not head.exists():
            raise self._incomplete(folder, head, "the critic would start anew against a policy that has moved on")
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        # Before 5.23 transformers reads the adapters of sub-folders, and then not the one at the root.
        self.model.load_adapter(resume_from_checkpoint, roles.POLICY, is_trainable=True)
        self.model.value_head.load_state_dict(load_file(head))

    def _run_state(self) -> dict[str, Any]:
        return super()._run_state() | {"kl_controller": self.kl_controller.state_dict()}

    def _set_run_state(self, state: dict[str, Any]) -> None:
        super()._set_run_state(state)
        self.kl_controller.load_state_dict(state["kl_controller"])
