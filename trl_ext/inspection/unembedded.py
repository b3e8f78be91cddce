"""Refuse rows with a token that the model has no embedding for, which would end in an index error during training.

A tokenizer may have added tokens beyond the embeddings as long as no text holds them; `special_tokens.unembedded` ignores these.
"""

from typing import Any

import numpy as np
from datasets import Dataset

from trl_ext.inspection.token_lists import TokenLists
from trl_ext.methods import Method
from trl_ext.support.errors import UserError

BATCH = 10_000


def refuse(method: Method, tokenised: Dataset, tokenizer: Any, rows: int | None, numbers: np.ndarray) -> None:
    """Look at every token of tokenised data.

    Args:
        method: The kind of training.
        tokenised: Holds the `token_columns` of its kind.
        tokenizer: The tokenizer, which names the token.
        rows: Number of the model's embeddings; if `None`, nothing is checked.
        numbers: For each example, the number of its row in the source.

    Raises:
        UserError: Names the first row with such a token.
    """
    if rows is None or len(tokenizer) <= rows:
        return
    columns = [name for name in method.token_columns if name != "labels"]
    start = 0
    for table in tokenised.select_columns(columns).with_format("arrow").iter(BATCH):
        for lists in (TokenLists(table[name]) for name in columns):
            beyond = np.flatnonzero(lists.values >= rows)
            if len(beyond):
                row = int(np.searchsorted(lists.offsets, beyond[0], side="right")) - 1
                token = tokenizer.convert_ids_to_tokens(int(lists.values[beyond[0]]))
                raise UserError(
                    f"Row {int(numbers[start + row]):,} of the training data holds the token {token!r}, and the model has no "
                    f"embedding for it: it has {rows:,}. Remove it from the data, use the tokenizer the model was trained with, or "
                    "call `model.resize_token_embeddings(len(tokenizer))` and save both."
                )
        start += len(table)
