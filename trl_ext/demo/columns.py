"""Add columns to the demo's pairs that its known language and reward give: the margin of a pair, and a gold completion."""

import random
from collections.abc import Iterable
from typing import Any

from datasets import Dataset, Features, List, Value

from trl_ext.demo import grammar


def margin(pair: dict[str, Any]) -> float:
    """The true reward of the chosen completion minus that of the rejected one, from −1 to 1."""
    chosen, rejected = (grammar.reward(pair[side][-1]["content"]) for side in ("chosen", "rejected"))
    return chosen - rejected


def gold(pair: dict[str, Any]) -> list[dict[str, str]]:
    """A review that the language itself writes for the prompt, with the highest true reward; the same for equal prompts."""
    text = pair["prompt"][-1]["content"]
    rng = random.Random(text)
    while grammar.reward(review := grammar.write_review(grammar.thing_of(text), rng)) < 1:
        pass
    return [{"role": "assistant", "content": review}]


MESSAGES = List({"role": Value("string"), "content": Value("string")})
COLUMNS = {"margin": (margin, Value("float64")), "gold": (gold, MESSAGES)}
"""Functions of a pair, and the types of their columns."""


def with_columns(dataset: Dataset, names: Iterable[str]) -> Dataset:
    """The demo's pairs with further columns.

    Args:
        dataset: Pairs of conversations.
        names: Of `COLUMNS`.
    """
    for name in names:
        function, feature = COLUMNS[name]
        dataset = dataset.map(
            _added,
            fn_kwargs={"name": name, "function": function},
            features=Features({**dataset.features, name: feature}),
            desc=f"Adding {name}",
        )
    return dataset


def _added(pair: dict[str, Any], name: str, function: Any) -> dict[str, Any]:
    return {name: function(pair)}
