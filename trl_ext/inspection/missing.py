"""Compare what each conversation says with its tokens, and count what the chat template leaves out.

The tokens are those of the trainer (`trl_ext.inspection.tokenise`), decoded. White space does not count: many templates strip it.
A template may write text as JSON, and a tokenizer may change it (case, rare characters); both are allowed for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from trl import is_conversational

from trl_ext.data import page, statements
from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.page import Page, words
from trl_ext.data.statements import KINDS, Piece
from trl_ext.methods import Method

COLUMN = "_trl_ext_missing"
FEW = 8
"""Tokens of a completion that may all be special tokens, whose names contain letters that a short text is found in."""
WHOLE = "messages"
"""The column of conversations that are not divided into prompt and completion."""
CONVERSATIONS = ("prompt", "chosen", "rejected", "gold", "completion", WHOLE)
LEARNED, NOTHING_LEFT = 1 << len(KINDS), 1 << 2 * len(KINDS)
"""Bits of a row: by place in `KINDS`, a piece of the prompt is missing; times `LEARNED`, one of a completion; `NOTHING_LEFT`,
nothing that a completion says is left, or nothing of a prompt that completions are sampled for."""


def flags(method: Method, given: Dataset, tokenised: Dataset, tokenizer: Any) -> dict[str, np.ndarray]:
    """{name of a finding: whether it is true of each example}; empty for plain text.

    Args:
        method: The kind of training.
        given: The examples.
        tokenised: The same examples with the `token_columns` of the method.
        tokenizer: Decodes tokens.
    """
    if not len(given) or not is_conversational(given[0]):
        return {}
    columns = [name for name in (*CONVERSATIONS, "tools") if name in given.column_names]
    narrow = given.select_columns(columns)
    bits = tokenised.select_columns(list(method.token_columns)).map(
        _bits,
        batched=True,
        with_indices=True,
        fn_kwargs={"method": method, "given": narrow, "tokenizer": tokenizer},
        remove_columns=list(method.token_columns),
        features=Features({COLUMN: Value("uint16")}),
        new_fingerprint=fingerprint(tokenised, "missing", narrow._fingerprint, _version()),
        desc="Comparing messages with their tokens",
    )
    values = np.asarray(bits.with_format("numpy")[COLUMN][:])
    found = {"nothing_left": values & NOTHING_LEFT != 0}
    for place, kind in enumerate(KINDS):
        found[f"{kind}_missing"] = values & (1 << place) != 0
        found[f"{kind}_not_learned"] = values & (LEARNED << place) != 0
    return found


def described(method: Method, given: dict, tokenised: dict, tokenizer: Any, finding: str) -> str:
    """What the tokens of one example lack, for a finding of `flags`: "'Let me think' (assistant)"."""
    kinds = KINDS if finding == "nothing_left" else (finding.split("_")[0],)
    found = [
        piece
        for place, pieces in _missing(method, given, tokenised, tokenizer, {})
        for piece in pieces
        if piece.kind in kinds
        and (finding == "nothing_left" or _is_learned(place, piece) == finding.endswith("learned"))
    ]
    return words(found)


def _is_learned(place: str, piece: Piece) -> bool:
    return place != "prompt" and piece.role == "assistant"


def _bits(batch: dict[str, list], indices: list[int], **known: Any) -> dict[str, list]:
    method, tokenizer = known["method"], known["tokenizer"]
    rows = known["given"][indices[0] : indices[-1] + 1]
    decoded = {name: tokenizer.batch_decode(batch[name]) for name in method.token_columns if name != "labels"}
    return {
        COLUMN: [
            _row_bits(
                method,
                {name: column[i] for name, column in rows.items()},
                {name: column[i] for name, column in batch.items()},
                tokenizer,
                {name: column[i] for name, column in decoded.items()},
            )
            for i in range(len(indices))
        ]
    }


def _row_bits(method: Method, given: dict, tokens: dict, tokenizer: Any, texts: dict[str, str]) -> int:
    bits = 0
    for place, found in _missing(method, given, tokens, tokenizer, texts):
        for piece in found:
            bits |= (LEARNED if _is_learned(place, piece) else 1) << KINDS.index(piece.kind)
        if found and _says_nothing(method, place, given, found):
            bits |= NOTHING_LEFT
    return bits


def _says_nothing(method: Method, place: str, given: dict, missing: list[Piece]) -> bool:
    """True if nothing is left of what is learned here, or of a prompt that completions are sampled for."""
    if place == "prompt" and method.completions:
        return False
    said = list(statements.pieces(given[place]))
    if place == WHOLE:
        said, missing = ([piece for piece in part if piece.role == "assistant"] for part in (said, missing))
    words = [piece for piece in said if piece.kind != "name"]
    return bool(words) and len([piece for piece in missing if piece.kind not in ("name", "tools")]) == len(words)


def _missing(
    method: Method, given: dict, tokens: dict, tokenizer: Any, texts: dict[str, str]
) -> Iterator[tuple[str, list[Piece]]]:
    """(column of the conversation, the pieces that its tokens lack)."""

    def text(name: str) -> str:
        return texts[name] if name in texts else tokenizer.decode(tokens[name])

    def changed(text: str) -> str:
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])

    tools = list(statements.declared(given.get("tools")))
    if method.token_columns[0] in ("input_ids", "chosen_ids"):  # each sequence holds its prompt
        columns = [name for name in method.token_columns if name != "labels"]
        sequences = {name.replace("input", "completion").removesuffix("_ids"): text(name) for name in columns}
        for name, whole in sequences.items():
            name = WHOLE if WHOLE in given else name
            found = Page(whole, changed)
            if "prompt" in given:
                yield "prompt", found.lacks([*tools, *statements.pieces(given["prompt"])])
                tools = []
            yield name, found.lacks([*tools, *statements.pieces(given[name])])
        return
    prompt = text("prompt_ids")
    found = Page(prompt, changed)
    yield "prompt", found.lacks([*tools, *statements.pieces(given["prompt"])])
    for name in method.completions:
        said = list(statements.pieces(given[name]))
        longest = max((len(piece.text) for piece in said), default=0)
        ids = tokens[f"{name}_ids"]
        if len(ids) <= FEW and not tokenizer.decode(ids, skip_special_tokens=True).strip():
            yield name, said
            continue
        # The completion may begin inside the prompt's last tokens, where the template writes them for both.
        found = Page(text(f"{name}_ids"), changed, before=prompt[-longest:])
        yield name, found.lacks(said)


def _version() -> bytes:
    """The source of the comparison, for its cache."""
    return b"".join(Path(module).read_bytes() for module in (__file__, statements.__file__, page.__file__))
