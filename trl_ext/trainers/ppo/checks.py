"""What PPO refuses before a run, and its KL controller."""

from typing import Any

from trl_ext import checks
from trl_ext.checks import sampling
from trl_ext.methods import METHODS
from trl_ext.rl import kl
from trl_ext.trainers.ppo.config import PPOConfig
from trl_ext.trainers.rollout import checks as rollout_checks
from trl_ext.trainers.rollout import roles


class SettingsWarning(UserWarning):
    """What a recipe's notes say too: the settings do something else than one may think."""


def notes(args: PPOConfig) -> list[str]:
    """A sentence for each setting that works and may not do what was meant."""
    return checks.notes(checks.ConfigSettings(args, METHODS["ppo"]))


def note_on_model(trainer: Any) -> str | None:
    """A sentence if a setting of the model's own generation_config.json changes what is sampled."""
    if trainer.use_vllm:
        return None
    inherited = trainer.model.generation_config.to_diff_dict()
    return sampling.sampling_of_model(
        {key: value for key, value in inherited.items() if key not in trainer.generation_kwargs}
    )


def controller(args: PPOConfig) -> kl.FixedController:
    """The KL controller of a configuration."""
    if args.kl_controller == "fixed":
        return kl.FixedController(args.kl_coef)
    return kl.AdaptiveController(args.kl_coef, target=args.kl_target, horizon=args.kl_horizon)


def refuse(args: Any, model: Any, sources: list, given: dict[str, Any]) -> None:
    """Raises for settings that cannot work, before any weights are loaded.

    Args: as `rollout_settings.refuse`.

    Raises:
        TypeError: `args` is no `PPOConfig`.
        ValueError: Everything else.
    """
    if not isinstance(args, PPOConfig):
        raise TypeError(
            f"PPOTrainer takes a PPOConfig, not a {type(args).__name__}; it has all of RLOOConfig's fields and the KL's."
        )
    rollout_checks.refuse(args, model, sources, given)
    if any(part is not None for part in given["optimizers"]):
        raise ValueError(
            "`optimizers` were given, and the critic's parameters do not exist yet: choose the optimizer by `optim` and "
            "`lr_scheduler_type`."
        )
    taken = {roles.CRITIC, roles.REWARD} & set(getattr(model, "peft_config", None) or ())
    if taken:
        raise ValueError(
            f"The model already has an adapter named {taken.pop()!r}, a name PPO gives itself: load only the policy's "
            "adapter."
        )
