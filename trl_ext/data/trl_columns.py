"""Give the column types of TRL's dataset types, and recognise columns that have them already."""

from __future__ import annotations

from typing import Any

from datasets import Features, Json, LargeList, List, Value

from trl_ext.data.formats import Match
from trl_ext.data.formats.messages import EXCHANGES, TEMPLATE_KEYS, TEXT_KEYS

MESSAGES = List({"role": Value("string"), "content": Value("string")})
# For tool calls and lists of content parts. A struct would fill absent keys with None, which chat templates treat as present;
# JSON does not.
ANY_MESSAGES = List(Json())
TEXTS = {*TEXT_KEYS, *(key for keys in EXCHANGES for key in keys)}
"""Keys that hold the text of a message."""


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


def trl_features(match: Match, source: Features) -> Features:
    """Features of TRL's type. Messages have only role and content unless a source column can hold more."""
    if not match.conversational:
        texts = {name: Value("string") for name in match.outputs}
    else:
        simple = not match.encoded and all(_is_simple(source[name]) for name in match.columns)
        texts = {name: MESSAGES if simple else ANY_MESSAGES for name in match.outputs}
    return Features({**texts, **({} if match.paired else {"label": Value("bool")})})


def _is_simple(feature: Any) -> bool:
    """True if a message in this column can only have a role and a text."""
    if isinstance(feature, (List, LargeList)):
        return _is_simple(feature.feature)
    if isinstance(feature, dict):
        return not feature.keys() & set(TEMPLATE_KEYS) and all(
            _is_string(item) or item == Value("null") if key in TEXTS else _is_simple(item)
            for key, item in feature.items()
        )
    return isinstance(feature, Value)  # numbers are scores, not completions
