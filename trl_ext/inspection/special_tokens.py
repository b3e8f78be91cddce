"""Check that a tokenizer fits its model: every token has an embedding, and completions end."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import ProcessorMixin

EXCHANGE = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": "No."}]


def text_tokenizer(processing_class: Any) -> Any:
    """The tokenizer of a processor, or the tokenizer itself."""
    return processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class


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


def appends_end(tokenizer: Any) -> bool:
    """True if the tokenizer puts the end-of-sequence token after every text."""
    ids = tokenizer("a")["input_ids"]
    return len(ids) > 1 and ids[-1] == tokenizer.eos_token_id


def stop_appending_end(tokenizer: Any) -> None:
    """Let the tokenizer put no end-of-sequence token after texts: prompts would end with it, and completions twice.

    Raises:
        ValueError: Its end-of-sequence token is appended by code that cannot be changed.
    """
    tokenizer.init_kwargs["add_eos_token"] = False
    if getattr(tokenizer, "add_eos_token", False):
        tokenizer.add_eos_token = False
    if appends_end(tokenizer) and getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["post_processor"] = _without_last(state["post_processor"], tokenizer.eos_token)
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    if appends_end(tokenizer):
        raise ValueError(f"the tokenizer puts {tokenizer.eos_token} after every text, also after prompts")


def _without_last(step: Any, token: str) -> Any:
    """A step of a tokenizer's post-processing, as in `tokenizer.json`, without the token that it puts after each text."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Sequence":
        return {**step, "processors": [_without_last(inner, token) for inner in step["processors"]]}
    if step.get("type") != "TemplateProcessing":
        return step

    def without(pieces: list[dict]) -> list[dict]:
        kept = [piece for piece in pieces if piece.get("SpecialToken", {}).get("id") != token]
        return kept if len(kept) < len(pieces) else pieces

    return {**step, "single": without(step["single"]), "pair": without(step["pair"])}


def on_end_of_turn(tokenizer: Any, stops: set[int]) -> str | None:
    """A sentence if the chat template ends a turn with a token at which the model does not stop, or with none."""
    end = end_of_turn(tokenizer)
    if end is None or end in stops:
        return None
    stop = " or ".join(f"`{token}`" for token in tokenizer.convert_ids_to_tokens(sorted(stops)))
    token = tokenizer.convert_ids_to_tokens(end)
    how = f"ends a turn with `{token}`" if token in tokenizer.added_tokens_encoder else "writes no token after a turn"
    return (
        f"The chat template {how}, but the model stops at {stop}. So sampled completions do not end with a turn. Set "
        "`eos_token` in the tokenizer's tokenizer_config.json to the token that ends a turn, or use a template that writes one."
    )
