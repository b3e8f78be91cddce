"""Describe the settings that change what is minimised, besides the hyperparameters of the loss.

`trl-ext validate`, the first lines of a run and the model card print them beside the formula.
"""

from collections.abc import Callable
from typing import Any

from trl_ext.support.counts import count


def changes(value: Callable[[str], Any]) -> list[str]:
    """A phrase for each setting that changes the objective.

    Args:
        value: Reads a setting, of a recipe or of a configuration; `None` for a setting that it does not have.
    """
    found = []
    if (alpha := value("ld_alpha")) not in (None, 1):
        found.append(
            f"ld_alpha {alpha:g}: log-probs of tokens beyond the length of the pair's shorter completion are multiplied by "
            f"{alpha:g} (LD-DPO, arXiv:2409.06411)"
        )
    if value("humanline"):
        low, high = map(value, ("humanline_log_epsilon_p", "humanline_log_epsilon_r"))
        found.append(
            f"humanline: the log-ratio of each token is clipped to [{low:g}, {high:g}] nats, and the reference follows the policy "
            f"(humanline variant, arXiv:2509.24207)"
        )
    if value("use_weighting"):
        found.append(
            "use_weighting: the loss of each pair is multiplied by the length-normalised probability of its two completions "
            "(WPO, arXiv:2406.11827)"
        )
    if value("loss_type") == "dft":
        found.append("loss_type dft: each token's term is multiplied by its probability (DFT, arXiv:2508.05629)")
    if smoothing := value("label_smoothing_factor"):
        found.append(f"label_smoothing_factor {smoothing:g}: the targets are smoothed over the vocabulary")
    if center := value("center_rewards_coefficient"):
        found.append(f"center_rewards_coefficient {center:g}: {center:g}·(r(chosen) + r(rejected))² is added")
    if coefficient := value("router_aux_loss_coef"):
        found.append(
            f"router_aux_loss_coef {coefficient:g}: {coefficient:g} times the router's load-balancing loss is added"
        )
    return found


def updates(is_humanline: bool, steps: int, alpha: float) -> str:
    """How a reference is updated during training.

    Args:
        is_humanline: Whether it is that of a humanline variant.
        steps: Optimizer steps between two updates.
        alpha: Share of the policy in an update.
    """
    if is_humanline:
        return f"replaced by the policy before the optimizer step, every {count(steps, 'steps')}"
    return f"updated every {count(steps, 'steps')} to {alpha:g}·policy + {1 - alpha:g}·reference"


def changes_of(args: Any) -> list[str]:
    """The same for a trainer's configuration."""
    return changes(lambda key: getattr(args, key, None))
