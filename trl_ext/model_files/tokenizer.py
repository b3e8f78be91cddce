"""Check that each token of a tokenizer has an embedding, by its tokenizer.json and without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trl_ext.model_files import fit
from trl_ext.support.counts import count

SPECIAL = ("eos_token", "pad_token", "bos_token", "unk_token")


def problem(folder: Path, base: Path) -> str | None:
    """An error message if the tokenizer in the folder of an adapter has tokens that its base has no embedding for.

    As `trl_ext.inspection.special_tokens.unembedded`, it does not count added tokens that are not in use. A run also looks at
    the chat template.
    """
    rows = fit.read_base(base).rows
    beyond = unembedded(folder, rows) if rows else []
    if not beyond:
        return None
    return (
        f"The tokenizer in {folder} has {count(len(beyond), 'tokens')} beyond the {rows:,} embeddings of the base {base}, for "
        f"instance {', '.join(map(repr, beyond[:3]))}. Use the base that the adapter was trained on, or remove the tokenizer "
        "from the adapter's folder to use that of the base."
    )


def unembedded(folder: Path, rows: int) -> list[str]:
    """Tokens in use whose id is `rows` or more; empty without a readable tokenizer.json."""
    tokens, settings = _json(folder / "tokenizer.json"), _json(folder / "tokenizer_config.json")
    vocabulary = dict(tokens.get("model") or {}).get("vocab") or {}
    found = vocabulary.items() if isinstance(vocabulary, dict) else ((v[0], id) for id, v in enumerate(vocabulary))
    beyond = {token for token, id in found if id >= rows}
    used = {_text(settings.get(name)) for name in SPECIAL}
    added = {entry["content"]: entry["id"] for entry in tokens.get("added_tokens") or []}
    beyond = (beyond - {*added}) | {token for token, id in added.items() if id >= rows and token in used}
    return sorted(beyond)


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
