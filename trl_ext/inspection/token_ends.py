"""Flag examples whose tokens have an end or a beginning twice, or whose prompt ends a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from trl_ext.inspection import special_tokens
from trl_ext.inspection.token_lists import TokenLists
from trl_ext.methods import Method

LAST = 6
"""Tokens of a sequence among which two ends are looked for."""
BATCH = 1000


def flags(method: Method, tokenised: Dataset, tokenizer: Any, stops: set[int], is_chat: bool) -> dict[str, np.ndarray]:
    """{name of a finding: whether it is true of each example}.

    Args:
        method: The kind of training.
        tokenised: Holds the `token_columns` of the method.
        tokenizer: Decodes tokens.
        stops: Ids of the tokens that end a sequence.
        is_chat: Whether the examples are conversations. What their template writes in any case is not flagged.
    """
    blank = _Blank(tokenizer)
    exchange = special_tokens.exchange(tokenizer) if is_chat else None
    names = [name for name in method.token_columns if name != "labels"]
    found = {name: [] for name in ("double_end", "double_beginning", "prompt_ended")}
    for table in tokenised.select_columns(names).with_format("arrow").iter(BATCH):
        columns = {name: list(TokenLists(table[name])) for name in names}
        first = columns[names[0]]
        sequences = [columns[name] for name in names if name != "prompt_ids"]
        ends = [[_ends_twice(ids, stops, blank) for ids in column] for column in sequences]
        found["double_end"].append(np.any(ends, axis=0) if ends else np.zeros(len(first), bool))
        found["double_beginning"].append([_begins_twice(ids, tokenizer.bos_token_id) for ids in first])
        is_prompt = names[0] == "prompt_ids"
        found["prompt_ended"].append([is_prompt and _is_ended(ids, stops, blank) for ids in first])
    flagged = {name: np.concatenate([np.asarray(part, bool) for part in parts]) for name, parts in found.items()}
    if exchange is not None and _ends_twice(np.asarray(exchange), stops, blank):
        del flagged["double_end"]
    if exchange is not None and _begins_twice(np.asarray(exchange), tokenizer.bos_token_id):
        del flagged["double_beginning"]
    return flagged


class _Blank:
    """Whether a token is white space; each token is decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.known = tokenizer, {}

    def __call__(self, token: int) -> bool:
        if token not in self.known:
            self.known[token] = not self.tokenizer.decode([token]).strip()
        return self.known[token]


def _ends_twice(ids: np.ndarray, stops: set[int], blank: _Blank) -> bool:
    ends = 0
    for token in reversed(ids[-LAST:].tolist()):
        if token in stops:
            ends += 1
        elif not blank(token):
            break
    return ends > 1


def _is_ended(ids: np.ndarray, stops: set[int], blank: _Blank) -> bool:
    return next((token in stops for token in reversed(ids[-LAST:].tolist()) if not blank(token)), False)


def _begins_twice(ids: np.ndarray, beginning: int | None) -> bool:
    return beginning is not None and len(ids) > 1 and ids[0] == ids[1] == beginning
