"""Read the body of a chat completion. What a server sends is not trusted to have the documented form."""

import json
from typing import Any

from trl_ext.judging.mark import read_verdict
from trl_ext.judging.verdict_cache import Reply


class MalformedReplyError(Exception):
    """A body that is no chat completion. The message is the rest of a sentence about it."""


def read_reply(body: bytes) -> Reply:
    """Verdict, words and token counts of a chat completion.

    A completion without choices or without text, such as one that a content filter emptied, has no verdict: `UNCLEAR`.

    Raises:
        MalformedReplyError: The body is no JSON object, reports an error, or has no choices at all.
    """
    try:
        completion = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedReplyError("is not JSON") from None
    if not isinstance(completion, dict):
        raise MalformedReplyError("is not a JSON object")
    if error := completion.get("error"):
        raise MalformedReplyError(f"reports an error: {_message(error)}")
    choices = completion.get("choices")
    if not isinstance(choices, list):
        raise MalformedReplyError("has no list of choices")
    usage = _mapping(completion.get("usage"))
    choice = _mapping(choices[0] if choices else None)
    words = _text(_mapping(choice.get("message")).get("content"))
    return Reply(
        read_verdict(words),
        words,
        _tokens(usage.get("prompt_tokens")),
        _tokens(usage.get("completion_tokens")),
        was_cut=choice.get("finish_reason") == "length",
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(content: Any) -> str:
    """The text of a message, also of one in parts."""
    if isinstance(content, list):
        return "".join(_text(_mapping(part).get("text")) for part in content)
    return content if isinstance(content, str) else ""


def _tokens(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _message(error: Any) -> str:
    return str(_mapping(error).get("message") or error)
