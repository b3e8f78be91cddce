"""Say which surrogate and which aggregation each `loss_type` of TRL's GRPO stands for, without importing torch.

A later change of names in TRL concerns this table alone (`tests/trainers/grpo/test_parity_with_trl.py`).
"""

from collections.abc import Callable
from typing import Any

LOSS_TYPES = {
    "grpo": ("clipped", "sequence"),  # arXiv:2402.03300
    "dr_grpo": ("clipped", "constant"),  # arXiv:2503.20783
    "dapo": ("clipped", "token"),  # arXiv:2503.14476
    "bnpo": ("clipped", "token"),  # TRL normalises by the tokens of a micro-batch, and nothing here depends on these
    "cispo": ("cispo", "token"),  # arXiv:2506.13585
    "sapo": ("sapo", "sequence"),  # arXiv:2511.20347
    "luspo": ("clipped", "sum"),  # arXiv:2602.05261
    "vespo": ("vespo", "token"),  # arXiv:2602.10693
}
"""`policy_objective` and `loss_aggregation` of each `loss_type`."""


def of(loss_type: str) -> dict[str, str]:
    """The settings that a `loss_type` stands for."""
    objective, aggregation = LOSS_TYPES[loss_type]
    return {"policy_objective": objective, "loss_aggregation": aggregation}


def scale(scale_rewards: Any) -> Any:
    """`scale_rewards` as a word; TRL takes true and false too."""
    return {True: "group", False: "none"}.get(scale_rewards, scale_rewards)


def translated(value: Callable[[str], Any]) -> Callable[[str], Any]:
    """Read settings as the general trainer has them, where a recipe gives them in the spelling of TRL's GRPO.

    Args:
        value: Gives a setting by its name; `None` for one that does not exist.
    """

    def read(name: str) -> Any:
        given = value(name)
        if name == "scale_rewards":
            return scale(given)
        if given is None and name in ("policy_objective", "loss_aggregation"):
            return of(value("loss_type"))[name] if value("loss_type") in LOSS_TYPES else None
        return given

    return read
