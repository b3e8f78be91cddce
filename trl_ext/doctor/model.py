"""Check the recipe's model on this computer: its weights, and that its tokenizer fits it. Uses no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.demo import EMBEDDED
from trl_ext.doctor.finding import Finding, fails, first_line, passed, warns
from trl_ext.inspection import special_tokens
from trl_ext.model_files import adapter, local
from trl_ext.support.counts import are

GIB = 2**30
WEIGHTS = ("*.safetensors", "*.bin")


def has_weights(folder: Path) -> bool:
    """Whether all weight files exist, according to the index if there is one."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return all(
            (folder / file).exists() for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        )
    return any(True for pattern in WEIGHTS for _ in folder.glob(pattern))


def is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def missing(recipe: Any) -> str | None:
    """The model, or the base of the adapter, whose weights are not on this computer; `None` if nothing is missing."""
    name, revision = recipe.get("model_name_or_path"), recipe.get("model_revision")
    folder = local.folder(name, revision)
    if folder is None or not has_weights(folder):
        return name
    base = adapter.base_of(folder)
    there = local.folder(base) if base else folder
    return base if there is None or not has_weights(there) else None


def on_this_computer(recipe: Any, planned: Any) -> Iterator[Finding]:
    """Check that the weights are on this computer. The Hub is not contacted."""
    name = missing(recipe)
    if name is None:
        where = "comes with trl-ext" if recipe.get("model_name_or_path") == EMBEDDED else "is on this computer"
        yield passed("model", f"{recipe.get('model_name_or_path')} {where}")
        return
    if Path(name).is_dir():
        yield fails("model", f"{name} holds no weights, or only some of them", "Save or copy the model again.")
        return
    size = f" ({2 * planned.parameters / GIB:.0f} GiB)" if planned is not None else ""
    if is_offline():
        remedy = f"Unset HF_HUB_OFFLINE, or run hf download {name} on a computer with a network and copy the cache."
        yield fails("model", f"{name} is not in the Hub cache, and HF_HUB_OFFLINE is set", remedy)
    else:
        yield warns(
            "model",
            f"{name} is not in the Hub cache",
            f"The first run downloads it{size}; to download it now: hf download {name}",
        )


def tokenizer(recipe: Any) -> Iterator[Finding]:
    """Check the special tokens, that each token has an embedding, and that the chat template ends its messages."""
    folder = local.folder(recipe.get("model_name_or_path"), recipe.get("model_revision"))
    base = adapter.base_of(folder) if folder else None
    holds_model = local.folder(base) if base else folder
    holds_tokens = folder if folder and (folder / "tokenizer_config.json").exists() else holds_model
    if holds_tokens is None:
        return
    from transformers import AutoConfig, AutoTokenizer

    trust = {"trust_remote_code": bool(recipe.get("trust_remote_code")), "local_files_only": True}
    try:
        found = AutoTokenizer.from_pretrained(holds_tokens, **trust)
    except (OSError, ValueError) as error:
        yield fails("tokenizer", f"cannot be loaded ({first_line(error)})", "Save or download the model again.")
        return
    rows = special_tokens.embeddings(AutoConfig.from_pretrained(holds_model, **trust)) if holds_model else None
    problems = [*_ends(found, recipe, holds_model), *_fits(found, rows)]
    yield from problems
    if not any(problem.check == "tokenizer" for problem in problems):
        yield passed("tokenizer", ", ".join(_summary(found, rows)))


def _summary(tokenizer: Any, rows: int | None) -> list[str]:
    last = special_tokens.end_of_turn(tokenizer)
    return [
        f"eos {tokenizer.eos_token}",
        f"pad {tokenizer.pad_token or 'none (eos is used)'}",
        "no chat template" if last is None else f"chat template ends with {tokenizer.convert_ids_to_tokens(last)}",
        f"{len(tokenizer):,} tokens" + (f" in {rows:,} embeddings" if rows else ""),
    ]


def _fits(tokenizer: Any, rows: int | None) -> Iterator[Finding]:
    beyond = special_tokens.unembedded(tokenizer, rows) if rows else []
    if beyond:
        yield fails(
            "tokenizer",
            f"{len(beyond):,} of its tokens ({', '.join(beyond[:3])}) {are(len(beyond))} beyond the model's {rows:,} embeddings",
            "Use the tokenizer the model was trained with, or resize the embeddings and save both.",
        )


def _ends(tokenizer: Any, recipe: Any, folder: Path | None) -> Iterator[Finding]:
    if tokenizer.eos_token is None:
        yield fails("tokenizer", "has no end-of-sequence token", "Set `eos_token` in its tokenizer_config.json.")
        return
    generation = _generation_ends(folder)
    if recipe.method.samples_completions and generation and tokenizer.eos_token_id not in generation:
        ends = ", ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(generation))))
        yield warns(
            "generation",
            f"stops at {ends} by generation_config.json, but the tokenizer's end is {tokenizer.eos_token}; sampling stops at either",
            f"Add {tokenizer.eos_token_id} to `eos_token_id` there, so that the trained model stops where it did in training.",
        )
    ids = special_tokens.exchange(tokenizer)
    if ids is None:
        return
    last = special_tokens.end_of_turn(tokenizer)
    if last != tokenizer.eos_token_id and last not in generation:
        yield warns(
            "chat template",
            f"ends messages with {tokenizer.convert_ids_to_tokens(last)!r}, which does not stop generation",
            f"Make it the `eos_token` (now {tokenizer.eos_token}), or end messages with {tokenizer.eos_token} in the template.",
        )
    if tokenizer.bos_token_id is not None and ids[:2] == 2 * [tokenizer.bos_token_id]:
        yield warns("chat template", f"begins with {tokenizer.bos_token} twice", "Remove one from the template.")


def _generation_ends(folder: Path | None) -> set[int]:
    """Tokens at which generation stops according to generation_config.json; empty without that file."""
    try:
        content = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return set()
    ends = content.get("eos_token_id")
    return set(ends) if isinstance(ends, list) else set() if ends is None else {ends}
