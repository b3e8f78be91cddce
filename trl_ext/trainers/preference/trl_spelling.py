"""Translate a loss from and into TRL's `loss_type` and `loss_weights`."""

from typing import Any

from trl_ext import losses
from trl_ext.checks.loss import mix_from_trl

NAMES = {
    "dpo": "sigmoid",
    "dpo_norm": "sigmoid_norm",
    "exo": "exo_pair",
    "nca": "nca_pair",
}
"""Names of losses in TRL where they differ from ours."""

OF_TRL = {
    "dpo": (
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
        "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
    ),
    "kto": ("kto", "apo_zero_unpaired"),
}  # fmt: skip
"""Values of `loss_type` by the Hub tag of the TRL trainer that has them."""


def from_trl(loss_type: list[str] | str | None, weights: list[float] | None) -> dict[str, Any] | str | None:
    """Convert `loss_type` and `loss_weights` into a `loss`."""
    if loss_type is None:
        return None
    mix = {losses.canonical(name): weight for name, weight in mix_from_trl(loss_type, weights).items()}
    return next(iter(mix)) if [*mix.values()] == [1] else mix


def to_trl(loss: dict[str, float] | str) -> tuple[list[str], list[float] | None]:
    """Convert a `loss` into `loss_type` and `loss_weights`. Losses that TRL lacks keep their names."""
    names = [NAMES.get(name, name) for name in _named(loss)]
    return names, None if isinstance(loss, str) else [float(weight) for weight in loss.values()]


def tags(loss: dict[str, float] | str, trl_tag: str) -> list[str]:
    """Hub tags of a loss: that of TRL's trainer if it has one of the parts, and the names of the parts."""
    of_trl = [trl_tag] if set(to_trl(loss)[0]) & set(OF_TRL[trl_tag]) else []
    return list(dict.fromkeys([*of_trl, *_named(loss)]))


def is_same(one: dict[str, float] | str, other: dict[str, float] | str) -> bool:
    """Whether two spellings are one loss: names or aliases, alone or in a mix of one part with weight 1."""
    return _weights(one) == _weights(other)


def _weights(loss: dict[str, float] | str) -> list[tuple[str, float]]:
    return sorted(zip(_named(loss), [1] if isinstance(loss, str) else loss.values(), strict=True))


def _named(loss: dict[str, float] | str) -> list[str]:
    """The names of the parts of a loss."""
    return [losses.canonical(name) for name in ([loss] if isinstance(loss, str) else loss)]
