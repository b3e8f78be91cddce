"""Save and load the critic: its adapter and head are in `critic/`, the policy's adapter is at the root."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save_file

from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.checkpoint import RolloutFiles

HEAD = "value_head.safetensors"


class PPOFiles(RolloutFiles):
    """The files of a rollout, and those of the critic.

    Args:
        args: The trainer's configuration.
    """

    adapters = (roles.POLICY, roles.CRITIC)

    def __init__(self, args: Any) -> None:
        super().__init__(args, method="PPO", state_name="ppo_state")

    def load_state(self, folder: Path) -> dict[str, Any]:
        self._require(folder, _head(folder), "the critic would start from scratch while the policy is already trained")
        return super().load_state(folder)

    def save_roles(self, model: PeftModel, folder: Path) -> None:
        save_file(model.value_head.state_dict(), _head(folder))

    def load_roles(self, model: PeftModel, folder: Path) -> None:
        # Before 5.23 transformers loads the adapters of sub-folders instead of the one at the root.
        model.load_adapter(str(folder), roles.POLICY, is_trainable=True)
        model.value_head.load_state_dict(load_file(_head(folder)))


def _head(folder: Path) -> Path:
    return folder / roles.CRITIC / HEAD
