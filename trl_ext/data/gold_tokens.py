"""Tokenise pairs with a third completion by a function that tokenises pairs."""

from collections.abc import Callable
from typing import Any

from datasets import Features

from trl_ext.data.golds import GOLD

PAIR = ("prompt_ids", "chosen_ids", "rejected_ids")
ASIDE = "first_"
"""How the columns of the pair are called while the gold completion is tokenised in place of the rejected one."""


def tokenise(dataset: Any, pairs: Callable[[Any], Any]) -> Any:
    """The tokenised dataset, with a column `gold_ids`.

    Args:
        dataset: Rows with `chosen`, `rejected` and `gold`, possibly streamed.
        pairs: Tokenises a dataset of pairs: adds `prompt_ids`, `chosen_ids` and `rejected_ids`.
    """
    first, features = pairs(dataset), None
    if first.features is not None:  # those that `map` finds by itself would fill the absent keys of turns
        pair = {ASIDE + name: first.features[name] for name in PAIR}
        features = Features({**first.features, "rejected": first.features[GOLD], **pair})
    aside = first.map(_set_aside, features=features)
    return pairs(aside).map(_joined, remove_columns=[ASIDE + name for name in PAIR])


def _set_aside(row: dict[str, Any]) -> dict[str, Any]:
    return {"rejected": row[GOLD]} | {ASIDE + name: row[name] for name in PAIR}


def _joined(row: dict[str, Any]) -> dict[str, Any]:
    """One prompt for three completions: the shorter of two, if a completion merges with the end of the prompt."""
    first = {name: row[ASIDE + name] for name in PAIR}
    length = min(len(first["prompt_ids"]), len(row["prompt_ids"]))
    rest, rest_of_gold = first["prompt_ids"][length:], row["prompt_ids"][length:]
    return {
        "prompt_ids": first["prompt_ids"][:length],
        "chosen_ids": rest + first["chosen_ids"],
        "rejected_ids": rest + first["rejected_ids"],
        "gold_ids": rest_of_gold + row["rejected_ids"],
    }
