"""Recognise the thoughts that a model writes before it answers, and leave them out of completions: the setting `thoughts`.

A thought stands between tags in the text, `<think>…</think>` for instance, or beside it in a key of the message
(`reasoning_content`).
"""

from __future__ import annotations

import re
from typing import Any

from datasets import Dataset

from trl_ext.data.report import Loaded
from trl_ext.data.statements import REASONING

ALL, NO_EMPTY, ANSWER, MASKED = CHOICES = ("all", "no_empty", "answer", "masked")
"""Train on thoughts and answers; on thoughts that are not empty and answers; on answers alone, without thoughts; on answers alone,
after thoughts that are read and not learned (`trl_ext.inspection.masked_thoughts`)."""
TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("<|channel>thought", "<channel|>"),
)
"""Tags around a thought, as Qwen3, SmolLM3 and DeepSeek, Seed, Magistral, gpt-oss and Gemma 4 write them."""
COMPLETIONS = ("chosen", "rejected", "gold", "completion", "messages")

_OPEN, _CLOSE = ("|".join(map(re.escape, tags)) for tags in zip(*TAGS, strict=True))
_ENDS_A_THOUGHT = "|".join(re.escape(end) for _, end in TAGS if end != "<|end|>")
"""Closing tags that end nothing else: gpt-oss ends every message as its thoughts, and so do Phi-3 and others their turns."""
_ENDS_THE_OPEN_THOUGHT = rf"{_ENDS_A_THOUGHT}|<\|end\|>(?=<\|start\|>)"
"""Of a thought whose opening tag is not in the text: after its thoughts, gpt-oss begins another message."""
THOUGHT = re.compile("|".join(f"{re.escape(begin)}(.*?)(?:{re.escape(end)}|\\Z)" for begin, end in TAGS), re.DOTALL)
EMPTY = re.compile("|".join(rf"\s*{re.escape(begin)}\s*{re.escape(end)}\s*" for begin, end in TAGS))
"""A text that is an empty thought."""


def is_open(text: str) -> bool:
    """Whether a text ends inside a thought: after an opening tag without its closing tag."""
    after = max((match.end() for match in re.finditer(_OPEN, text)), default=None)
    return after is not None and re.search(_CLOSE, text[after:]) is None


def found_in(text: str, begins_inside: bool = False) -> list[tuple[str, bool]]:
    """The thoughts in a text: (what it says, whether it is whole).

    Args:
        text: Of a completion.
        begins_inside: The opening tag of the first thought stands before the text, in the prompt.
    """
    ends = first_end(text, begins_inside)
    if begins_inside and ends is None:
        return [(text, False)]
    found = [] if ends is None else [(text[: ends.start()], begins_inside)]
    rest = text if ends is None else text[ends.end() :]
    for match in THOUGHT.finditer(rest):
        said = next(filter(None, match.groups()), "")
        found.append((said, re.search(f"(?:{_CLOSE})\\Z", match[0]) is not None))
    return found


def first_end(text: str, begins_inside: bool) -> re.Match[str] | None:
    """The closing tag of a thought whose opening tag stands before the text.

    Args:
        text: Of a completion.
        begins_inside: It is known to begin inside a thought. Otherwise tags that also end other things do not count.
    """
    tags = _ENDS_THE_OPEN_THOUGHT if begins_inside else _ENDS_A_THOUGHT
    begins, ends = re.search(_OPEN, text), re.search(tags, text)
    return ends if ends is not None and (begins is None or ends.start() < begins.start()) else None


def without(loaded: Loaded, choice: str) -> Loaded:
    """The examples without the thoughts of their completions (`answer`), or without those that are empty (`no_empty`).

    With `masked` they stay: their tokens are marked later.

    Prompts keep theirs. A thought without its closing tag stays: where the answer begins is not known.
    """
    dataset, report = loaded
    names = [name for name in COMPLETIONS if name in (dataset.column_names or ())]
    if choice in (ALL, MASKED) or not names:
        return loaded
    arguments = {"desc": "Leaving out thoughts"} if isinstance(dataset, Dataset) else {"features": dataset.features}
    return Loaded(dataset.map(_without, fn_kwargs={"names": names, "choice": choice}, **arguments), report)


def _without(row: dict[str, Any], names: list[str], choice: str) -> dict[str, Any]:
    return {name: _answer(row[name], choice) for name in names}


def _answer(completion: Any, choice: str) -> Any:
    """A text or the messages of a completion."""
    if isinstance(completion, str):
        return _text(completion, choice)
    return [_message(message, choice) if message["role"] == "assistant" else message for message in completion]


def _message(message: dict[str, Any], choice: str) -> dict[str, Any]:
    beside = {
        key: None for key in REASONING if key in message and (choice == ANSWER or not (message[key] or "").strip())
    }
    content = message["content"]
    if not isinstance(content, str):  # parts, of which the first text holds the thought
        return {**message, **beside, "content": _parts(content, choice)}
    return {**message, **beside, "content": _text(content, choice)}


def _parts(parts: Any, choice: str) -> Any:
    if not isinstance(parts, list):
        return parts
    return [
        {**part, "text": _text(part["text"], choice)} if isinstance(part.get("text"), str) else part for part in parts
    ]


def _text(text: str, choice: str) -> str:
    """A completion without the thought that it begins with."""
    match = THOUGHT.match(text.lstrip())
    if match is None:
        ends = first_end(text, begins_inside=False)
        return text if ends is None or choice != ANSWER else text[ends.end() :].lstrip("\n")
    is_whole = re.search(f"(?:{_CLOSE})\\Z", match[0]) is not None
    said = next(filter(None, match.groups()), "")
    if not is_whole or (choice == NO_EMPTY and said.strip()):
        return text
    return text.lstrip()[match.end() :].lstrip("\n")
