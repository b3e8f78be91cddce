"""Read from a model's configuration files which tokens end a sequence and how long a sequence may be."""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers import AutoConfig, GenerationConfig

from trl_ext.inspection import special_tokens
from trl_ext.inspection.special_tokens import text_tokenizer


class ModelFiles(NamedTuple):
    """What is known of a model without its weights.

    Attributes:
        stops: Ids of the tokens that end a sequence: that of the tokenizer, and those at which the model stops generating.
        stop_tokens: The same tokens as text.
        positions: Number of positions of the model, if its configuration has it.
        embeddings: Number of rows of its input embeddings, if its configuration has it.
    """

    stops: set[int]
    stop_tokens: list[str]
    positions: int | None
    embeddings: int | None = None


def read(path: str, revision: str, trust_remote_code: bool, processing_class: Any) -> ModelFiles:
    """Read the configuration files of a model, in a folder or on the Hub.

    Missing and damaged files are ignored here; loading the model reports them.
    """
    tokenizer = text_tokenizer(processing_class)
    stops, positions, rows = {tokenizer.eos_token_id}, None, None
    try:
        more = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
        stops |= {more} if isinstance(more, int) else set(more or ())
    except (OSError, ValueError):
        pass
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        rows = special_tokens.embeddings(config)
    except (OSError, ValueError):
        pass
    return ModelFiles(stops, tokenizer.convert_ids_to_tokens(sorted(stops)), positions, rows)
