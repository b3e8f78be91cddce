"""Mark the tokens of thoughts, which the model reads and does not learn: `thoughts: masked`.

A thought is found in the text of the tokens, so the marks hold for whatever the chat template made of the data. The tags, and the
white space after them, belong to the thought. A token that holds white space and the beginning of the answer is learned. A
thought without its closing tag reaches to the end of the completion.
"""

from __future__ import annotations

import bisect
import re
from typing import Any

import numpy as np
from datasets import Dataset

from trl_ext.data import thoughts
from trl_ext.data.cache_keys import fingerprint
from trl_ext.inspection.special_tokens import text_tokenizer
from trl_ext.inspection.truncation import Limits
from trl_ext.methods import Method

SPACE = re.compile(r"\s*")


def masked(method: Method, tokenised: Dataset, processing_class: Any) -> Dataset:
    """The examples with their thoughts marked: a column `…_learned` for each completion, a bool for each of its tokens.

    Demonstrations have labels instead, which become −100 at thoughts.

    Args:
        method: A kind of training on preferences or demonstrations.
        tokenised: Its tokenised examples.
        processing_class: Tokenizer or processor.
    """
    mark = _unlabelled if method.reads == "demonstrations" else _marked
    return tokenised.map(
        mark,
        fn_kwargs={"method": method, "tokenizer": text_tokenizer(processing_class)},
        new_fingerprint=fingerprint(tokenised, "masked thoughts", method.name, *method.completions),
        desc="Masking thoughts",
    )


def teaches_nothing(method: Method, marked: Dataset, limits: Limits) -> np.ndarray:
    """Whether a demonstration has no learned token left after the cut; false for other kinds of examples."""
    if method.reads != "demonstrations":
        return np.zeros(len(marked), bool)

    def kept(labels: list[int]) -> list[int]:
        length = limits.max_length
        return labels if length is None else labels[-length:] if limits.keep_end else labels[:length]

    return np.fromiter(
        (all(label == -100 for label in kept(labels)) for labels in marked["labels"]), bool, len(marked)
    )


def learned(ids: list[int], is_open: bool, tokenizer: Any) -> list[bool]:
    """Whether each token of a completion is outside of thoughts.

    Args:
        ids: The completion.
        is_open: Whether the prompt ends inside a thought, which the completion continues.
        tokenizer: Decodes tokens.
    """

    def text(count: int) -> str:
        return tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    flags = [True] * len(ids)
    for span in spans(text(len(ids)), is_open):
        first, last = (
            bisect.bisect_right(range(len(ids) + 1), place, key=lambda n: len(text(n))) - 1 for place in span
        )
        flags[first:last] = [False] * (last - first)
    return flags


def spans(text: str, is_open: bool) -> list[tuple[int, int]]:
    """Where thoughts with their tags, and the white space after them, stand in the text of a completion."""
    found, place = [], 0
    end = thoughts.first_end(text, is_open)
    if is_open and end is None:
        return [(0, len(text))]
    if end is not None:
        found, place = [(0, end.end())], end.end()
    found += [match.span() for match in thoughts.THOUGHT.finditer(text, place)]
    return [(start, SPACE.match(text, stop).end()) for start, stop in found]


def _marked(row: dict[str, Any], method: Method, tokenizer: Any) -> dict[str, Any]:
    is_open = thoughts.is_open(tokenizer.decode(row["prompt_ids"]))
    return {f"{name}_learned": learned(row[f"{name}_ids"], is_open, tokenizer) for name in method.completions}


def _unlabelled(row: dict[str, Any], method: Method, tokenizer: Any) -> dict[str, Any]:
    ids, labels = row["input_ids"], list(row["labels"])
    start = 0
    while start < len(labels):
        stop = start + 1
        while stop < len(labels) and (labels[stop] == -100) == (labels[start] == -100):
            stop += 1
        if labels[start] != -100:
            flags = learned(ids[start:stop], thoughts.is_open(tokenizer.decode(ids[:start])), tokenizer)
            labels[start:stop] = [
                label if is_learned else -100 for label, is_learned in zip(labels[start:stop], flags, strict=True)
            ]
        start = stop
    return {"labels": labels}
