"""Read the column `gold` of pairs: a third completion of the prompt, better than the chosen one, which some losses imitate."""

from __future__ import annotations

import dataclasses
from typing import Any

from datasets import Features, IterableDataset, LargeList, List

from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.formats.messages import as_messages
from trl_ext.data.formats.row_outcome import Drop
from trl_ext.data.missing_columns import GOLD, missing
from trl_ext.data.report import Loaded
from trl_ext.data.trl_columns import ANY_MESSAGES, are_simple
from trl_ext.support.errors import UserError


def required(loaded: Loaded, loss: str) -> tuple[Loaded, list[str]]:
    """Pairs whose gold completions have the form of the chosen ones, for a loss that reads them, and a sentence about them.

    Text beside messages becomes an assistant turn. Turns keep thoughts and calls of tools that no chosen completion has. A gold completion that repeats the prompt is cut to what follows it.

    Raises:
        UserError: There is no such column, or a gold completion is missing, empty or of another form; for a stream, while it is
            read.
    """
    dataset, report = loaded
    where = report.where
    if GOLD not in (dataset.column_names or ()):
        raise UserError(missing(where, GOLD, loss))
    given = {"where": where, "loss": loss}
    of_chosen = dataset.features["chosen"]
    holds_more = isinstance(of_chosen, List | LargeList) and not are_simple(dataset, [GOLD])
    features = Features({**dataset.features, GOLD: ANY_MESSAGES if holds_more else of_chosen})
    if isinstance(dataset, IterableDataset):
        return Loaded(dataset.map(_converted, fn_kwargs=given, features=features), report), []
    numbers = list(range(len(dataset))) if report.kept is None else [int(number) for number in report.kept]
    done = dataset.map(
        _converted,
        with_indices=True,
        fn_kwargs={**given, "numbers": numbers},
        features=features,
        new_fingerprint=fingerprint(dataset, GOLD),
        desc="Reading gold completions",
    )
    return Loaded(done, report), [f"{where}: the loss also learns from the completions in `{GOLD}`."]


def without(loaded: Loaded) -> Loaded:
    """Preference data without the column, which its report then lists among those that are not used."""
    dataset, report = loaded
    if GOLD not in (dataset.column_names or ()):
        return loaded
    return Loaded(dataset.remove_columns(GOLD), dataclasses.replace(report, ignored=(*report.ignored, GOLD)))


def _converted(
    row: dict[str, Any], place: int | None = None, *, where: str, loss: str, numbers: list[int] | None = None
) -> dict[str, Any]:
    prompt, value = row["prompt"], row[GOLD]
    found = _text(prompt, value) if isinstance(row["chosen"], str) else _turns(prompt, value)
    if not found:
        which = "a row" if numbers is None else f"row {numbers[place]:,}"
        is_missing = value is None or value == "" or value == []
        given = "empty" if is_missing else "neither text nor a conversation that ends with the assistant"
        raise UserError(
            f"The `{GOLD}` in {which} of {where} is {given}, and the loss {loss} learns from it. Give every row a completion in the form "
            "of `chosen`, or remove the row."
        )
    return {GOLD: found}


def _text(prompt: str, value: Any) -> str | None:
    """The text of a gold completion beside plain text; `None` if there is none."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    return value.removeprefix(prompt) if isinstance(value, str) else None


def _turns(prompt: list[dict], value: Any) -> list[dict] | None:
    """The turns of a gold completion beside messages; `None` if they do not end with the assistant's."""
    try:
        turns = as_messages(value, "assistant", set())
    except Drop:
        return None
    if [_shown(turn) for turn in turns[: len(prompt)]] == [_shown(turn) for turn in prompt]:
        turns = turns[len(prompt) :]
    is_answer = bool(turns) and turns[-1]["role"] == "assistant" and bool(turns[-1]["content"])
    return turns if is_answer else None


def _shown(turn: dict) -> tuple:
    return turn["role"], turn["content"]
