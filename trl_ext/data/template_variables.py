"""Bring the column `chat_template_kwargs` into the form that TRL's trainers read: a mapping in every row, without null.

Tables hold null for a row that has none, and for a key that only other rows have. TRL would pass on the null, which a template
may take for false, and refuse a row without a mapping.
"""

from __future__ import annotations

import json
from typing import Any

from datasets import Dataset, Features, Json

from trl_ext.data.report import Loaded
from trl_ext.support.errors import UserError
from trl_ext.support.messages import shown

COLUMN = "chat_template_kwargs"


def as_mappings(loaded: Loaded) -> Loaded:
    """The examples with their template variables as mappings; they may be JSON in a text.

    Raises:
        UserError: A value is neither a mapping, nor JSON of one, nor null. A stream raises it when it gets to the row.
    """
    dataset, report = loaded
    if COLUMN not in (dataset.column_names or ()):
        return loaded
    features = None if dataset.features is None else Features({**dataset.features, COLUMN: Json()})
    arguments: dict[str, Any] = {
        "fn_kwargs": {"where": report.where, "numbers": report.kept},
        "features": features,
        "with_indices": True,
    }
    if isinstance(dataset, Dataset):
        arguments["desc"] = "Reading template variables"
    return Loaded(dataset.map(_mapping, **arguments), report)


def _mapping(row: dict[str, Any], place: int, where: str, numbers: Any) -> dict[str, Any]:
    given = row[COLUMN]
    try:
        value = json.loads(given) if isinstance(given, str) and given.strip() else given
    except ValueError:
        value = None
    if given is None or (isinstance(given, str) and not given.strip()):
        value = {}
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: `{COLUMN}` of row {place if numbers is None else int(numbers[place]):,} is {shown(given)}. Give a mapping of "
            'variables of the chat template, {"enable_thinking": false} for instance, or null.'
        )
    return {COLUMN: without_none(value)}


def without_none(value: Any) -> Any:
    """A value without the keys, at any depth, that a table holds null for."""
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return [without_none(inner) for inner in value] if isinstance(value, list) else value
