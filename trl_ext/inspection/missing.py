"""Compare what each conversation says with its tokens, and count what the chat template leaves out.

The tokens are those of the trainer (`trl_ext.inspection.tokenise`), decoded. White space does not count: many templates strip it.
A template may write text as JSON, and a tokenizer may change it (case, rare characters); both are allowed for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from trl import is_conversational

from trl_ext.data.cache_keys import fingerprint
from trl_ext.inspection import statements
from trl_ext.inspection.statements import KINDS, Piece
from trl_ext.methods import Method

COLUMN = "_trl_ext_missing"
SHOWN = 2
"""Pieces of an example that are named."""
FEW = 8
"""Tokens of a completion that may all be special tokens, whose names contain letters that a short text is found in."""
WHOLE = "messages"
"""The column of conversations that are not divided into prompt and completion."""
CONVERSATIONS = ("prompt", "chosen", "rejected", "completion", WHOLE)
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
    unique = list(dict.fromkeys(found))
    words = [f"{shortened(piece.text)!r} ({piece.role})" for piece in unique[:SHOWN]]
    return ", ".join(words) + (f" and {len(unique) - SHOWN} more" if len(unique) > SHOWN else "")


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

    tools = list(statements.declared(given.get("tools")))
    if method.token_columns[0] in ("input_ids", "chosen_ids"):  # each sequence holds its prompt
        columns = [name for name in method.token_columns if name != "labels"]
        sequences = {name.replace("input", "completion").removesuffix("_ids"): text(name) for name in columns}
        for name, whole in sequences.items():
            name = WHOLE if WHOLE in given else name
            page = Page(whole, tokenizer)
            if "prompt" in given:
                yield "prompt", page.lacks([*tools, *statements.pieces(given["prompt"])])
                tools = []
            yield name, page.lacks([*tools, *statements.pieces(given[name])])
        return
    prompt = text("prompt_ids")
    page = Page(prompt, tokenizer)
    yield "prompt", page.lacks([*tools, *statements.pieces(given["prompt"])])
    for name in method.completions:
        said = list(statements.pieces(given[name]))
        longest = max((len(piece.text) for piece in said), default=0)
        ids = tokens[f"{name}_ids"]
        if len(ids) <= FEW and not tokenizer.decode(ids, skip_special_tokens=True).strip():
            yield name, said
            continue
        # The completion may begin inside the prompt's last tokens, where the template writes them for both.
        page = Page(text(f"{name}_ids"), tokenizer, before=prompt[-longest:])
        yield name, page.lacks(said)


class Page:
    """Decoded tokens in which the pieces of a conversation are looked up, in their order."""

    def __init__(self, text: str, tokenizer: Any, before: str = "") -> None:
        """Args: the text, its tokenizer, and the text before it, of which a piece may begin in the end."""
        self.tokenizer = tokenizer
        self.text, self.before = squeezed(text), squeezed(before)
        self.at = 0
        self.used: list[tuple[int, int]] = []

    def lacks(self, given: list[Piece]) -> list[Piece]:
        """The pieces that are not there. Texts may stand there only once, calls after the turns before them."""
        lacking, turn, start = [], None, 0
        for piece in given:
            if piece.turn != turn:
                turn, start = piece.turn, self.at
            if not self._has(piece, start):
                lacking.append(piece)
        return lacking

    def _has(self, piece: Piece, start: int) -> bool:
        if piece.kind == "calls":
            return any(form in self.text[start:] for form in self._forms(piece.text))
        if piece.kind in ("name", "tools"):
            return any(form in self.text for form in self._forms(piece.text))
        return any(self._take(form) for form in self._forms(piece.text))

    def _take(self, form: str) -> bool:
        at = self.text.find(form, self.at)
        if at >= 0:
            self.at = at + len(form)
            self.used.append((at, self.at))
            return True
        overlap = self.before[len(self.before) - len(form) + 1 :] if len(form) > 1 else ""
        if overlap and form in overlap + self.text[: len(form)]:
            return True
        at = self.text.find(form)  # templates may put the system's text into a later turn
        while at >= 0:
            if all(at + len(form) <= start or at >= stop for start, stop in self.used):
                self.used.append((at, at + len(form)))
                return True
            at = self.text.find(form, at + 1)
        return False

    def _forms(self, text: str) -> Iterator[str]:
        """The text as it may be written: as it is, in JSON, and as the tokenizer changes it."""
        yield squeezed(text)
        for is_ascii in (False, True):
            once = json.dumps(text, ensure_ascii=is_ascii)[1:-1]
            yield squeezed(once)
            yield squeezed(json.dumps(once, ensure_ascii=is_ascii)[1:-1])
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        yield squeezed(self.tokenizer.decode(ids))


def squeezed(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def shortened(text: str, width: int = 60) -> str:
    """The text in one line, its middle left out if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width // 2]}…{line[1 - width // 2 :]}"


def _version() -> bytes:
    """The source of the comparison, for its cache."""
    return b"".join(Path(module).read_bytes() for module in (__file__, statements.__file__))
