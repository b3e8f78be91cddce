"""Rows with a token that the model has no embedding for."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from trl_ext import demo
from trl_ext.inspection import unembedded
from trl_ext.methods import METHODS
from trl_ext.support.errors import UserError


@pytest.fixture
def tokenizer():
    made = AutoTokenizer.from_pretrained(str(demo.MODEL))
    made.add_tokens(["<tool>", "<thought>"])
    return made


def tokenised(tokenizer, method: str, texts: list[str]) -> Dataset:
    """Every column of a kind of training holds the same texts, but for labels, which hold what is not an id."""
    ids = [tokenizer(text)["input_ids"] for text in texts]
    columns = METHODS[method].token_columns
    return Dataset.from_dict({name: [[-100] * len(i) for i in ids] if name == "labels" else ids for name in columns})


@pytest.mark.parametrize("method", METHODS)
def test_the_first_row_is_named(method, tokenizer):
    rows, numbers = len(tokenizer) - 2, np.array([4, 7, 9])
    data = tokenised(tokenizer, method, ["a good day", "<thought>", "<tool> good"])
    with pytest.raises(
        UserError, match=rf"^Row 7 .* the token '<thought>', and the model has no embedding.* {rows:,}"
    ):
        unembedded.refuse(METHODS[method], data, tokenizer, rows, numbers)


@pytest.mark.parametrize("more", [0, 64])
def test_a_model_with_embeddings_for_every_token(more, tokenizer):
    data = tokenised(tokenizer, "paired", ["<thought>", "<tool>"])
    unembedded.refuse(METHODS["paired"], data, tokenizer, len(tokenizer) + more, np.arange(2))


def test_added_tokens_that_no_text_holds(tokenizer):
    data = tokenised(tokenizer, "paired", ["a good day"])
    unembedded.refuse(METHODS["paired"], data, tokenizer, len(tokenizer) - 2, np.arange(1))
