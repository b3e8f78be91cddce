"""Render one example as the trainer sees it: special tokens, the tokens that are learned from, the tokens that are cut."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from trl_ext.inspection.facts import Facts

VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
"""Control characters and the symbols that replace them: data must not control the terminal."""
LONGEST = 600
"""Characters of a part that are shown; the middle of a longer part is omitted."""


class Part(NamedTuple):
    """Consecutive tokens of a sequence that are treated alike.

    Attributes:
        text: The tokens as text, with special tokens.
        role: "prompt" or "thought" (read only), "learned" (counted in the loss) or "cut" (never seen by the model).
        tokens: Number of tokens.
    """

    text: str
    role: str
    tokens: int


def render(facts: Facts, tokenised: Dataset, place: int, tokenizer: Any) -> dict[str, list[Part]]:
    """The parts of each sequence of an example, by the name of its completion; "prompt" for a prompt without one.

    Args:
        facts: The facts about the whole dataset.
        tokenised: The tokenised dataset.
        place: Position of the example.
        tokenizer: Decodes tokens.
    """
    row = tokenised[place]
    if facts.method.reads == "prompts":
        return {"prompt": _parts(row["prompt_ids"], ["prompt"] * len(row["prompt_ids"]), tokenizer)}
    if facts.method.reads == "demonstrations":
        roles = np.where(np.array(row["labels"]) == -100, "prompt", "learned")
        return {"completion": _parts(row["input_ids"], _cut(roles, facts).tolist(), tokenizer)}
    shown = {}
    prompt = row.get("prompt_ids", [])
    for name in facts.method.completions:
        ids = [*prompt, *row[f"{name}_ids"]]
        learned = row.get(f"{name}_learned") or [True] * (len(ids) - len(prompt))
        roles = np.array(
            [*["prompt"] * len(prompt), *("learned" if one else "thought" for one in learned)], dtype="<U7"
        )
        shown[name] = _parts(ids, _cut(roles, facts).tolist(), tokenizer)
    return shown


def _cut(roles: np.ndarray, facts: Facts) -> np.ndarray:
    limit = facts.limits.max_length
    if limit is not None and facts.limits.is_cut and len(roles) > limit:
        roles[slice(0, len(roles) - limit) if facts.limits.keep_end else slice(limit, None)] = "cut"
    return roles


def _parts(ids: list[int], roles: list[str], tokenizer: Any) -> list[Part]:
    parts, start = [], 0
    for stop in range(1, len(ids) + 1):
        if stop == len(ids) or roles[stop] != roles[start]:
            text = tokenizer.decode(ids[start:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            text = text.translate(VISIBLE)
            if len(text) > LONGEST:
                half = LONGEST // 2
                text = f"{text[:half]} […] {text[-half:]}"
            parts.append(Part(text, roles[start], stop - start))
            start = stop
    return parts
