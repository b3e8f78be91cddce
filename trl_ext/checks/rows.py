"""Rules about rows: their size, their order, recomputation of their activations, and settings that only padded rows read."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.support import messages


@problem("row_tokens")
def row_tokens(s: Settings) -> Iterator[str]:
    given = s["row_tokens"]
    is_count = isinstance(given, str) and given.isdigit() and int(given) > 0
    if given is None or (isinstance(given, str) and given != "auto" and not is_count):
        yield f"{s.where('row_tokens')} is {given!r}: give a number of tokens of at least 1, or 'auto'."


@problem("train_sampling_strategy", applies_to=lambda method: method.cuts_rows)
def order_of_examples(s: Settings) -> Iterator[str]:
    if s["train_sampling_strategy"] not in ("random", "sequential"):
        yield (
            f"{s.where('train_sampling_strategy')} is {s['train_sampling_strategy']!r}: give 'random' or 'sequential'. Rows "
            "are packed, or sorted by length within a step, so grouping examples by length would save nothing more."
        )


def checkpointing(key: str, s: Settings) -> Iterator[str]:
    if isinstance(s[key], str) and s[key] != "auto" and s[key].lower() not in ("true", "false"):
        yield f"{s.where(key)} is {s[key]!r}: give true, false or 'auto'."


for _key in ("activation_checkpointing", "gradient_checkpointing"):  # the first is the newer name of the second
    problem(_key)(partial(checkpointing, _key))


@problem("gradient_checkpointing", "gradient_checkpointing_kwargs")
def chosen_layers(s: Settings) -> Iterator[str]:
    given = s["gradient_checkpointing_kwargs"]
    chosen = {"every_n_layers", "offload", "selective"} & set(given if isinstance(given, dict) else ())
    if s["gradient_checkpointing"] == "auto" and chosen:
        yield (
            f"{s.where('gradient_checkpointing_kwargs')} sets {', '.join(sorted(chosen))}, and `gradient_checkpointing: auto` "
            "chooses the layers itself. Set `gradient_checkpointing: true`, or remove these entries."
        )


@note(
    "packing", "truncation_mode", "model_name_or_path", "attn_implementation", "model_init_kwargs", "pad_to_multiple_of",
    applies_to=lambda method: method.cuts_rows,
)  # fmt: skip
def padding(s: Settings) -> Iterator[str]:
    """Settings that only padded rows read, where rows are packed."""
    if s["packing"] is False or s["truncation_mode"] == "keep_end" or _soft_caps(str(s["model_name_or_path"] or "")):
        return
    inside = s["model_init_kwargs"] if isinstance(s["model_init_kwargs"], dict) else {}
    given = {s.where("attn_implementation"): s["attn_implementation"]}
    if "attn_implementation" in inside:
        given = {f"`attn_implementation` in {s.where('model_init_kwargs')}": inside["attn_implementation"]}
    for where, value in given.items():
        if value not in (None, "sdpa"):
            yield (
                f"{where} is {messages.shown_text(str(value))}, and packed rows use their own attention kernels. It affects "
                "padded rows only: those of `packing: false`, or of a model that cannot be packed."
            )
    if s["pad_to_multiple_of"] not in (None, "auto", "none", "null", 1):
        yield (
            f"{s.where('pad_to_multiple_of')} is {s['pad_to_multiple_of']}, and packed rows are not padded. It affects padded "
            "rows only: those of `packing: false`, or of a model that cannot be packed."
        )


@problem("pad_to_multiple_of")
def multiple(s: Settings) -> Iterator[str]:
    """A number, or one of the words that TRL's configuration reads."""
    given = s["pad_to_multiple_of"]
    is_odd_word = isinstance(given, str) and given.lower() not in ("auto", "none", "null") and not _is_count(given)
    if is_odd_word or (isinstance(given, int) and given < 1):
        yield f"{s.where('pad_to_multiple_of')} is {messages.shown(given)}: give a whole number of at least 1, or null."


def _is_count(text: str) -> bool:
    return text.isdigit() and int(text) > 0


@note("padding_free", applies_to=lambda method: method.reads != "demonstrations")
def padding_free(s: Settings) -> Iterator[str]:
    if s["padding_free"]:
        yield f"{s.where('padding_free')} has no effect since TRL 1.0."


def _soft_caps(model: str) -> bool:
    """Whether a model, by its name or its folder, caps attention scores, so that its rows are not packed."""
    if re.search(r"gemma-?2(?!\d)", model.lower()):
        return True
    try:
        text = Path(model).expanduser().joinpath("config.json").read_text(encoding="utf-8")
        return bool(json.loads(text).get("attn_logit_softcapping"))
    except (OSError, ValueError, AttributeError):
        return False
