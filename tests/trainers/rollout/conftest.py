"""A model whose completions end at different lengths."""

import shutil

import pytest
from transformers import GenerationConfig


@pytest.fixture(scope="session")
def model(tiny_model, tmp_path_factory) -> str:
    """The tiny model with 40 of its 170 tokens, the tokenizer's own end token among them, ending a completion."""
    directory = tmp_path_factory.mktemp("ending") / "model"
    shutil.copytree(tiny_model, directory)
    GenerationConfig(bos_token_id=2, pad_token_id=0, eos_token_id=[3, *range(60, 99)]).save_pretrained(directory)
    return str(directory)
