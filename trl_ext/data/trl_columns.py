"""Give the column types of TRL's dataset types, and recognise columns that have them already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Json, LargeList, List, Value

from trl_ext.data.formats import Match, tool_turns
from trl_ext.data.formats.messages import EXCHANGES, ROLE_KEYS, TEMPLATE_KEYS, TEXT_KEYS

MESSAGES = List({"role": Value("string"), "content": Value("string")})
# For tool calls and lists of content parts. A struct would fill absent keys with None, which chat templates treat as present;
# JSON does not.
ANY_MESSAGES = List(Json())
TEXTS = {*TEXT_KEYS, *(key for keys in EXCHANGES for key in keys)}
"""Keys that hold the text of a message."""
CALLING_KEYS = ("function_call", "reasoning")
"""Keys of messages that are read under other names."""


def has_trl_types(match: Match, features: Features) -> bool:
    """True if the columns already have TRL's names and types."""
    if not set(match.outputs) <= set(match.columns) or (not match.paired and match.label != "label"):
        return False
    if not match.paired and features["label"] != Value("bool"):
        return False
    has_type = _is_message_list if match.conversational else _is_string
    return all(has_type(features[name]) for name in match.outputs)


def _is_string(feature: Any) -> bool:
    return feature in (Value("string"), Value("large_string"))


def _is_message_list(feature: Any) -> bool:
    item = getattr(feature, "feature", None)
    if not isinstance(feature, (List, LargeList)) or not isinstance(item, dict):
        return feature == ANY_MESSAGES
    return {"role", "content"} <= item.keys() <= {"role", "content", *TEMPLATE_KEYS} and _is_string(item["role"])


def trl_features(match: Match, source: Dataset | IterableDataset) -> Features:
    """Features of TRL's type. Messages have only role and content unless a source column can hold more."""
    if not match.conversational:
        texts = {name: Value("string") for name in match.outputs}
    else:
        simple = not match.encoded and are_simple(source, match.columns)
        texts = {name: MESSAGES if simple else ANY_MESSAGES for name in match.outputs}
    return Features({**texts, **({} if match.paired else {"label": Value("bool")})})


def are_simple(source: Dataset | IterableDataset, columns: Sequence[str]) -> bool:
    """True if messages in these columns can only have a role and a text."""
    return all(_is_simple(source.features[name]) for name in columns) and not may_have_calls(source, columns)


def _is_simple(feature: Any) -> bool:
    """True if a message in this column can only have a role and a text."""
    if isinstance(feature, (List, LargeList)):
        return _is_simple(feature.feature)
    if isinstance(feature, dict):
        return not feature.keys() & {*TEMPLATE_KEYS, *CALLING_KEYS} and all(
            _is_string(item) or item == Value("null") if key in TEXTS else _is_simple(item)
            for key, item in feature.items()
        )
    return isinstance(feature, Value)  # numbers are scores, not completions


def may_have_calls(source: Dataset | IterableDataset, columns: Sequence[str]) -> bool:
    """True if a turn in these columns is the call of a tool by its role; of a stream, if its turns have ShareGPT's roles."""
    roles = [(name, key) for name in columns if (key := _role_key(source.features[name])) is not None]
    if isinstance(source, IterableDataset):
        return any(key == "from" for _, key in roles)
    wanted = pyarrow.array(tool_turns.ROLES)
    for name, key in roles:
        for table in source.select_columns([name]).with_format("arrow").iter(1000):
            turns = table[name].combine_chunks()
            given = pc.struct_field(turns if pyarrow.types.is_struct(turns.type) else turns.flatten(), key)
            if pc.any(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(given)), value_set=wanted)).as_py():
                return True
    return False


def _role_key(feature: Any) -> str | None:
    """The key of the roles in a column of messages or of lists of them, if they are texts."""
    item = getattr(feature, "feature", feature) if isinstance(feature, (List, LargeList)) else feature
    if not isinstance(item, dict):
        return None
    return next((key for key in ROLE_KEYS if key in item and _is_string(item[key])), None)
