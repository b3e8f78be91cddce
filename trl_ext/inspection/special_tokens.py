"""Whether a tokenizer fits its model: an embedding for each of its tokens, and answers that end."""

from __future__ import annotations

from typing import Any

EXCHANGE = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": "No."}]


def embeddings(config: Any) -> int | None:
    """Rows of the input embeddings, from a model's configuration; `None` if it does not say."""
    return getattr(config.get_text_config(), "vocab_size", None)


def unembedded(tokenizer: Any, rows: int) -> list[str]:
    """Tokens that texts or batches can contain and that have no embedding, the first by id first.

    Tokens added on top of the vocabulary count only if they are used: some models ship one for images that their text
    version has no embedding for.

    Args:
        rows: Of the embeddings.
    """
    beyond = sorted((id, token) for token, id in tokenizer.get_vocab().items() if id >= rows)
    if not beyond:
        return []
    used = {tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token, tokenizer.unk_token}
    used.update(tokenizer.convert_ids_to_tokens(exchange(tokenizer) or []))
    return [token for id, token in beyond if id not in tokenizer.added_tokens_decoder or token in used]


def exchange(tokenizer: Any) -> list[int] | None:
    """Token ids of a question and its answer through the chat template; `None` without a template."""
    if not tokenizer.chat_template:
        return None
    return tokenizer.apply_chat_template(EXCHANGE, tokenize=True, return_dict=False)


def last_of_an_answer(tokenizer: Any) -> int | None:
    """The token a chat template ends an answer with, white space aside; `None` without a template."""
    ids = exchange(tokenizer)
    if ids is None:
        return None
    return next((id for id in reversed(ids) if tokenizer.decode([id]).strip()), None)
