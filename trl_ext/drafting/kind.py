"""Decide what is trained from the columns of the data: a loss on pairs or on labels, demonstrations, or sampled completions."""

from __future__ import annotations

from typing import Any

from trl_ext import demo
from trl_ext.data import sources
from trl_ext.data.column_errors import unrecognised
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.formats import recognise
from trl_ext.data.renaming import mapped, with_known_names
from trl_ext.data.sampling import sample, without_format
from trl_ext.data.unlabelled import match_row
from trl_ext.support.errors import UserError

REWARDS = ("reward_funcs", "reward_adapter")
CHOOSES = ("loss", "loss_type", "loss_weights", "trainer")
"""Keys by which a recipe says what is trained."""


def kind_of(data: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keys `loss` and `trainer` of a recipe for this data.

    Args:
        data: A file, a folder, or a name on the Hub.
        given: Keys that were given as flags. They are kept; rewards ask for sampled completions.

    Raises:
        UserError: The data cannot be read, its columns are not recognised, or prompts come without a source of reward.
    """
    asks_for_rewards = any(given.get(key) for key in REWARDS)
    if given.get("trainer") or (any(given.get(key) for key in CHOOSES) and not asks_for_rewards):
        return {}
    if asks_for_rewards:
        return {"trainer": "online" if any(given.get(key) for key in CHOOSES) else "ppo"}
    return _of_columns(data, given)


def _of_columns(data: str, given: dict[str, Any]) -> dict[str, Any]:
    dataset, name = sources.open_source(
        str(demo.DATA) if data == demo.EMBEDDED else data,
        split=given.get("dataset_train_split") or "train",
        config=given.get("dataset_config"),
        revision=given.get("dataset_revision"),
        streaming=False,
    )
    stored = mapped(without_format(dataset), given.get("dataset_columns"), name)
    dataset = with_known_names(stored)
    match = recognise(sample(dataset), given.get("dataset_format") or "auto")
    if match is not None:
        return {"loss": "dpo" if match.paired else "kto"}
    found = sample(dataset, known=None)
    if DEMONSTRATIONS.has_columns(found) or any(match_row(row) is not None for row in found.rows[:1]):
        return {"trainer": "sft"}
    if "prompt" not in dataset.column_names:
        raise unrecognised(
            sample(stored, known=None), name, given.get("dataset_format") or "auto", given.get("dataset_columns")
        )
    raise UserError(
        f"{name} holds prompts and no completions. Completions are then sampled during training, which needs a source of "
        "reward. Add `--reward_funcs rewards.py:function` or `--reward_adapter DIR`, or give data with completions."
    )
