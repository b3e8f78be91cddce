"""Save and load the critic, if there is one: its adapter and head are in `critic/`, the policy's adapter is at the root."""

from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file, save_file

from trl_ext.rl import advantages
from trl_ext.trainers.rollout import roles
from trl_ext.trainers.rollout.checkpoint import RolloutFiles

HEAD = "value_head.safetensors"


class PPOFiles(RolloutFiles):
    """The files of a rollout, and those of the critic.

    Args:
        args: The trainer's configuration.
        method: Name of the method, for messages.
    """

    def __init__(self, args: Any, method: str = "PPO") -> None:
        super().__init__(args, method=method, state_name="ppo_state")
        self.has_critic = advantages.describe(args.advantage).needs_critic
        if self.has_critic:
            self.adapters = (roles.POLICY, roles.CRITIC)

    def load_state(self, folder: Path) -> dict[str, Any]:
        if self.has_critic:
            lost = "the critic would start from scratch while the policy is already trained"
            self._require(folder, _head(folder), lost)
        return super().load_state(folder)

    def save_roles(self, model: PeftModel, folder: Path) -> None:
        if self.has_critic:
            save_file(model.value_head.state_dict(), _head(folder))

    def load_roles(self, model: PeftModel, folder: Path) -> None:
        if not self.has_critic:
            return
        # Before 5.23 transformers loads the adapters of sub-folders instead of the one at the root.
        model.load_adapter(str(folder), roles.POLICY, is_trainable=True)
        model.value_head.load_state_dict(load_file(_head(folder)))


def _head(folder: Path) -> Path:
    return folder / roles.CRITIC / HEAD
