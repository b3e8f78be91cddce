"""Check that a tokenizer fits its model: every token has an embedding, and completions end."""

from __future__ import annotations

from typing import Any

EXCHANGE = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": "No."}]


def embeddings(config: Any) -> int | None:
    """Number of rows of the input embeddings, from a model's configuration; `None` if it does not have it."""
    return getattr(config.get_text_config(), "vocab_size", None)


def unembedded(tokenizer: Any, rows: int) -> list[str]:
    """Tokens without an embedding that texts or batches can contain, in the order of their ids.

    Tokens added to the vocabulary count only if they are used: some models have an added token for images without an embedding
    in their text version.

    Args:
        tokenizer: The tokenizer.
        rows: Number of embeddings.
    """
    beyond = sorted((id, token) for token, id in tokenizer.get_vocab().items() if id >= rows)
    if not beyond:
        return []
    used = {tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token, tokenizer.unk_token}
    used.update(tokenizer.convert_ids_to_tokens(exchange(tokenizer) or []))
    return [token for id, token in beyond if id not in tokenizer.added_tokens_decoder or token in used]


def exchange(tokenizer: Any) -> list[int] | None:
    """Token ids of a question and its answer in the chat template; `None` without a template."""
    if not tokenizer.chat_template:
        return None
    return tokenizer.apply_chat_template(EXCHANGE, tokenize=True, return_dict=False)


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that ends an assistant turn in the chat template, ignoring white space; `None` without a template."""
    ids = exchange(tokenizer)
    if ids is None:
        return None
    return next((id for id in reversed(ids) if tokenizer.decode([id]).strip()), None)
