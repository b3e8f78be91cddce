"""Say what data that is not recognised looks like, and what can be done with it as it is."""

from __future__ import annotations

from trl_ext.data.column_suggestions import siblings, text_columns, values
from trl_ext.data.content import are_numbers, are_ratings, are_two_classes, is_prose
from trl_ext.data.formats import Sample, ranked
from trl_ext.data.formats.labels import threshold
from trl_ext.data.formats.messages import kind
from trl_ext.data.formats.sample import as_list

PROMPTS = ("prompt", "question", "instruction", "query", "input", "problem", "post", "history", "context", "user")
ANSWERS = ("completion", "response", "answer", "output", "reply", "generation", "assistant")
MAIN = ("helpfulness", "overall", "score", "rating", "quality", "reward")
"""Ratings that are more often the one to go by than others."""
MANY_ROWS = 8
"""Rows from which on numbers that are all different are not ratings."""


def looks_like(found: Sample) -> str:
    """Sentences about the data, or nothing if it looks like no kind that is known."""
    texts = text_columns(found)
    for describe in (_several, _two, _rated, _demonstrations, _without_completions):
        if text := describe(found, texts):
            return text
    return ""


def _several(found: Sample, texts: list[str]) -> str:
    """A list of completions that nothing compares."""
    for name in found.columns:
        items = [item for value in values(found, name) for item in as_list(value) or []]
        if name.lower() not in (*ranked.COMPLETIONS, "texts", "ranking") or not items:
            continue
        if not isinstance(items[0], dict):
            return (
                f"`{name}` is a list, and no column says which of its completions are better. That can be a list `scores` (higher "
                "is better) or `ranks` (1 is best), or the position of the best one in `choice`, counted from 0."
            )
        keys = list(dict.fromkeys(key for item in items if isinstance(item, dict) for key in item))
        inside = {
            key: [item[key] for item in items if isinstance(item, dict) and item.get(key) is not None] for key in keys
        }
        text = next((key for key in keys if is_prose(inside[key], key)), None)
        number = next((key for key in keys if are_numbers(inside[key])), None)
        about = f"`{name}` is a list of objects with the keys {', '.join(keys)}"
        if text is None or number is None:
            lacking = (
                "a text to train on"
                if text is None
                else "a number that says which are better, such as `score` or `rank`"
            )
            return f"{about}. None of them is {lacking}."
        return (
            f"{about}. If a higher `{number}` is better, write "
            f'`dataset_columns: {{responses: "{name}.{text}", scores: "{name}.{number}"}}`; if 1 is best, `ranks` instead of `scores`.'
        )
    return ""


def _two(found: Sample, texts: list[str]) -> str:
    """Two responses without a verdict that can be read."""
    pair = next(iter(siblings(found)), None)
    if pair is None:
        return ""
    first, second = pair
    numbers = [name for name in found.columns if name not in pair and are_numbers(values(found, name))]
    binary = [name for name in numbers if are_two_classes(values(found, name))]
    signed = [name for name in numbers if any(float(value) < 0 for value in values(found, name))]
    names = _mapping(response_a=first, response_b=second)
    if signed:
        return (
            f"`{first}` and `{second}` look like two responses. If `{signed[0]}` is negative where `{first}` is better, write "
            f"`dataset_columns: {{response_a: {first}, response_b: {second}, overall_preference: {signed[0]}}}`."
        )
    if binary:
        return (
            f"`{first}` and `{second}` look like two responses. Datasets differ in which of them the 0 and 1 of `{binary[0]}` mean. "
            f'Write it out, in pandas: `rows["winner"] = rows["{binary[0]}"].map({{1: "a", 0: "b"}})` if 1 means `{first}`.'
            f"{names}"
        )
    return (
        f"`{first}` and `{second}` look like two responses, and no column says which is better. That can be `winner` (a, b or tie), or "
        f"a number for each, `score_a` and `score_b`.{names}"
    )


def _rated(found: Sample, texts: list[str]) -> str:
    """One completion in each row, with ratings."""
    prompt, answer = _named(PROMPTS, texts), _named(ANSWERS, texts)
    ratings = [
        name for name in found.columns if are_ratings(values(found, name)) and not _is_number_of_row(found, name)
    ]
    if not (prompt and answer and ratings):
        return ""
    main = _named(MAIN, ratings) or ratings[0]
    return (
        f"Each row looks like one completion with ratings ({', '.join(f'`{name}`' for name in ratings)}), which are neither labels "
        "nor pairs. For pairs, put the completions of a prompt into one row, in pandas: "
        f'`rows.groupby("{prompt}").agg(responses=("{answer}", list), scores=("{main}", list)).reset_index()`. '
        f"{threshold(main)}{_mapping(prompt=prompt, completion=answer)}"
    )


def _demonstrations(found: Sample, texts: list[str]) -> str:
    if any(values(found, name) and are_two_classes(values(found, name)) for name in found.columns):
        return ""
    talks = [name for name in texts if any(kind(value) == "messages" for value in values(found, name))]
    prompt, answer = _named(PROMPTS, texts), _named(ANSWERS, texts)
    if len(talks) == 1 and talks == texts:
        return f"`{talks[0]}` holds whole conversations, which nothing compares. `trainer: sft` learns from them."
    if prompt and answer:
        return (
            f"It looks like demonstrations: `{prompt}` with one completion in `{answer}`, which nothing calls good or bad. "
            "`trainer: sft` learns from them."
        )
    return "It looks like plain text. `trainer: sft` learns from `text`." if texts == ["text"] else ""


def _without_completions(found: Sample, texts: list[str]) -> str:
    prompt = _named(PROMPTS, texts)
    if prompt is None or len(texts) > 1:
        return ""
    return f"It looks like prompts without completions. `trainer: ppo` and `trainer: online` sample completions for `{prompt}`."


def _mapping(**names: str) -> str:
    other = [f"{place}: {name}" for place, name in names.items() if place != name]
    return f" Then write `dataset_columns: {{{', '.join(other)}}}`." if other else ""


def _named(words: tuple[str, ...], names: list[str]) -> str | None:
    exact = [name for word in words for name in names if name.lower() == word]
    parts = [name for word in words for name in names if word in name.lower()]
    return next(iter(exact + parts), None)


def _is_number_of_row(found: Sample, name: str) -> bool:
    there = values(found, name)
    return len(there) >= MANY_ROWS and len(set(map(str, there))) == len(there)
