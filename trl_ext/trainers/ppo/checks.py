"""Refuse what PPO cannot work with before weights are loaded, and note settings with unexpected effects."""

from typing import Any

from trl_ext import checks
from trl_ext.checks import sampling
from trl_ext.methods import METHODS
from trl_ext.trainers.ppo.config import PPOConfig
from trl_ext.trainers.rollout import checks as rollout_checks
from trl_ext.trainers.rollout import roles


class SettingsWarning(UserWarning):
    """A note about settings; a recipe with the same settings prints it too."""


def notes(args: PPOConfig) -> list[str]:
    """A note for each setting that works but may not have the intended effect."""
    return checks.notes(checks.ConfigSettings(args, METHODS["ppo"]))


def note_on_model(trainer: Any) -> str | None:
    """A note if the model's own generation_config.json changes the distribution that is sampled; else `None`."""
    if trainer.use_vllm:
        return None
    inherited = trainer.model.generation_config.to_diff_dict()
    return sampling.sampling_of_model(
        {key: value for key, value in inherited.items() if key not in trainer.generation_kwargs}
    )


def refuse(args: Any, model: Any, sources: list, given: dict[str, Any]) -> None:
    """Refuse arguments that cannot work; the arguments are those of `trl_ext.trainers.rollout.checks.refuse`.

    Raises:
        TypeError: `args` is not a `PPOConfig`.
        ValueError: Another argument cannot work.
    """
    if not isinstance(args, PPOConfig):
        raise TypeError(
            f"PPOTrainer takes a PPOConfig, not a {type(args).__name__}. PPOConfig has all fields of RLOOConfig."
        )
    rollout_checks.refuse(args, model, sources, given)
    if any(part is not None for part in given["optimizers"]):
        raise ValueError(
            "`optimizers` were given, but the critic's parameters do not exist yet. Choose the optimizer by `optim` and "
            "`lr_scheduler_type`."
        )
    taken = {roles.CRITIC, roles.REWARD} & set(getattr(model, "peft_config", None) or ())
    if taken:
        raise ValueError(
            f"The model already has an adapter named {taken.pop()!r}, a name that PPO uses. Load only the policy's adapter."
        )
