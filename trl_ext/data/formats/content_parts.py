"""Join the text parts of a message's content.

Chat APIs store content as a list of parts: ``[{"type": "text", "text": "Hi"}]``. Most chat templates expect a string. Given the
list, they write nothing, or the list as Python prints it. Vision-language models read lists, so lists stay in rows with images.
"""

from __future__ import annotations

from typing import Any

TEXT_TYPES = (None, "text", "input_text", "output_text")
"""Types of a text part: of most chat APIs, and of OpenAI's responses."""

REASONING = ("reasoning_content", "thinking")
"""Keys of a message that hold a thought, which chat templates read."""
THOUGHT_TYPES = ("thinking", "reasoning")
"""Types of a part that holds a thought, and the keys it stands in."""


def is_text(part: Any) -> bool:
    """True for a string, and for a part that holds text and nothing else."""
    if isinstance(part, str):
        return True
    if not isinstance(part, dict) or part.get("type") not in TEXT_TYPES:
        return False
    # Arrow fills keys that only other parts have with None.
    return _text(part) is not None


def others(content: Any) -> list[Any]:
    """The parts of a content that are not text, such as images; none for a string."""
    return [part for part in content if not is_text(part)] if isinstance(content, list) else []


def text_of(content: Any) -> str:
    """The text of a content: itself, or its text parts joined without a separator, as vision templates join them."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part if isinstance(part, str) else _text(part) or "" for part in parts if is_text(part))


def joined(content: list[Any]) -> str | list[Any]:
    """The text of parts that are all text; otherwise the parts as they are."""
    return content if others(content) else text_of(content)


def without_thoughts(content: Any) -> tuple[Any, str | None]:
    """(a content without its parts that hold thoughts, their text).

    `{"type": "thinking", "thinking": …}`, as Anthropic's API and Mistral's models write it: the thought is a text or text parts. The
    text is `None` without such parts, or if one of them cannot be read; then the content is as it was.
    """
    parts = content if isinstance(content, list) else []
    thoughts = [part for part in parts if isinstance(part, dict) and part.get("type") in THOUGHT_TYPES]
    said = [next((part[key] for key in THOUGHT_TYPES if part.get(key) is not None), None) for part in thoughts]
    if not thoughts or any(others(one) or not isinstance(one, (str, list)) for one in said):
        return content, None
    return [part for part in parts if part not in thoughts], "".join(map(text_of, said))


def alike(conversations: list[list[dict]]) -> list[list[dict]]:
    """The conversations of one row with every content as a list of parts if one of them is a list; else unchanged.

    TRL puts the images of a row into the first user turn whose content is a string.
    """
    contents = [message["content"] for conversation in conversations for message in conversation]
    if not any(isinstance(content, list) for content in contents):
        return conversations
    return [[{**message, "content": _parts(message["content"])} for message in turns] for turns in conversations]


def _parts(content: str | list[Any]) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(part: dict) -> str | None:
    """The text of a part: `value` in LLaMA-Factory v1, `text` elsewhere."""
    return next((part[key] for key in ("text", "value") if isinstance(part.get(key), str)), None)


def kind_of(part: Any) -> str:
    """What a part is called in a sentence: its type, or the type of Python's object."""
    return str(part.get("type") or ", ".join(part)) if isinstance(part, dict) else type(part).__name__
