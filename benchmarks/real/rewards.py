"""Check properties of answers that anyone can verify, as reward functions for recipes.

    reward_funcs: [benchmarks.real.rewards:is_short]

Each takes what TRL gives a reward function and returns a number in [0, 1] per completion. 1 means that the answer has the
property; a number below 1 says how near it is, so that the best of several answers can be told from the worst.
"""

import json
import re
from typing import Any

WORDS = 20
"""The most words of a short answer."""

KEYS = ("answer", "reason")
"""What an answer in JSON has to hold."""

FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself|I'm|I've|I'd|I'll|we|us|our|ours|ourselves)\b", re.IGNORECASE)
BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+\S", re.MULTILINE)


def is_short(completions: list, **kwargs: Any) -> list[float]:
    """An answer of at most `WORDS` words. A longer one of n words gets `WORDS` / n, an empty one 0."""
    counts = [len(text.split()) for text in map(text_of, completions)]
    return [min(1.0, WORDS / count) if count else 0.0 for count in counts]


def ends_with_question(completions: list, **kwargs: Any) -> list[float]:
    """An answer whose last sentence is a question. One with a question elsewhere gets 0.25."""
    texts = [text_of(completion).rstrip(" \n\"'*)") for completion in completions]
    return [1.0 if text.endswith("?") else 0.25 if "?" in text else 0.0 for text in texts]


def has_three_bullets(completions: list, **kwargs: Any) -> list[float]:
    """An answer with exactly three bullet points or numbered points. Each one more or less costs a quarter, none gets 0."""
    counts = [len(BULLET.findall(text_of(completion))) for completion in completions]
    return [max(0.0, 1.0 - abs(count - 3) / 4) if count else 0.0 for count in counts]


def avoids_first_person(completions: list, **kwargs: Any) -> list[float]:
    """An answer without "I", "my", "we" and the like. n of them give 1 / (1 + n); an empty answer gets 0."""
    texts = list(map(text_of, completions))
    return [1 / (1 + len(FIRST_PERSON.findall(text))) if text.strip() else 0.0 for text in texts]


def is_json(completions: list, **kwargs: Any) -> list[float]:
    """An answer that is a JSON object with the keys `KEYS`; a fence of backquotes around it is allowed. One without them gets 0.5."""
    return [_json_score(text_of(completion)) for completion in completions]


def short_question(completions: list, **kwargs: Any) -> list[float]:
    """A short answer that ends with a question: the mean of `is_short` and `ends_with_question`."""
    scores = zip(is_short(completions), ends_with_question(completions), strict=True)
    return [(short + question) / 2 for short, question in scores]


def text_of(completion: Any) -> str:
    """The text of a completion, which may be a conversation of one message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _json_score(text: str) -> float:
    inner = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        value = json.loads(inner)
    except ValueError:
        return 0.0
    if not isinstance(value, dict):
        return 0.0
    return 1.0 if set(KEYS) <= value.keys() else 0.5
