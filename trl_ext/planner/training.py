"""What a recipe's trainer does with examples: how long they are, how many run at once, and what runs besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl_ext import methods

UNLIMITED = 2048
"""Tokens of a sequence assumed where no setting limits them."""
PROMPT = 512
"""Tokens of a prompt that completions are sampled for, which no setting limits either."""


@dataclass(frozen=True)
class Training:
    """Examples and passes.

    Attributes:
        sequences: Of an example: 2 for pairs.
        length: Most tokens of a sequence.
        length_key: The setting that limits it.
        row_tokens: Given tokens of a row, or `None` where the run chooses.
        owns_rows: Whether rows are cut to fit memory; other trainers run whole micro-batches.
        checkpointing: `None` where the run chooses, else all layers or none.
        cannot_pack: Why this trainer pads, or `None`.
        needs_reference: Whether a reference is computed or cached.
        extra_passes: Further passes without gradient.
        is_classifier: It trains a scalar head in place of the LM head.
        trained_adapters, frozen_adapters: Adapters on the base; of the frozen ones, in units of the trained rank, those
            that this trainer adds.
        cached_tokens: Tokens whose keys and values are kept while completions are sampled.
        notes: Sentences about what was assumed.
    """

    sequences: int
    length: int
    length_key: str = "max_length"
    row_tokens: int | None = None
    owns_rows: bool = False
    checkpointing: bool | None = None
    cannot_pack: str | None = None
    needs_reference: bool = False
    extra_passes: int = 0
    is_classifier: bool = False
    trained_adapters: int = 1
    frozen_adapters: int = 0
    cached_tokens: int = 0
    notes: tuple[str, ...] = ()


def read(recipe: Any) -> Training:
    """What the trainer of a `trl_ext.recipe.Recipe` does."""
    return methods.imported(recipe.method.planner)(recipe)


def preferences(recipe: Any) -> Training:
    """A loss on given preferences: rows are cut to fit memory."""
    effective, info = recipe.effective, recipe.info
    length, notes = _length(recipe)
    rows = effective("row_tokens")
    return Training(
        sequences=2 if info.paired else 1,
        length=length,
        row_tokens=None if rows in (None, "auto") else int(rows),
        owns_rows=True,
        checkpointing=_checkpointing(recipe),
        cannot_pack=None if effective("packing") else "`packing` is off",
        needs_reference=info.needs_reference,
        extra_passes=int("z_ref" in info.inputs) + int(info.coupled),
        frozen_adapters=_moving_reference(recipe),
        notes=notes,
    )


def _moving_reference(recipe: Any) -> int:
    """Adapters that hold a reference refreshed during the run: mixtures of two have twice the rank."""
    if not recipe.effective("sync_ref_model"):
        return 0
    return 1 if recipe.effective("ref_model_mixup_alpha") == 1 else 2


def micro_batches(recipe: Any) -> Training:
    """A reward model on pairs, or supervised fine-tuning: a forward pass is `per_device_train_batch_size` examples."""
    length, notes = _length(recipe)
    sequences = len(recipe.method.completions)
    return Training(
        sequences=sequences,
        length=length,
        row_tokens=recipe.effective("per_device_train_batch_size") * sequences * length,
        checkpointing=bool(_checkpointing(recipe)),
        cannot_pack="its trainer runs whole micro-batches",
        is_classifier=recipe.method.trains_scores,
        notes=notes,
    )


def sampled(recipe: Any) -> Training:
    """The policy and, of PPO, the critic are trained adapters on one base, a reward model may be another, frozen one."""
    effective = recipe.effective
    length = PROMPT + (effective("max_completion_length") or UNLIMITED)
    batch = effective("per_device_train_batch_size")
    completions = effective("generation_batch_size") or batch * (
        effective("steps_per_generation") or effective("gradient_accumulation_steps")
    )
    return Training(
        sequences=1,
        length=length,
        length_key=recipe.method.length_key,
        row_tokens=batch * length,
        checkpointing=bool(_checkpointing(recipe)),
        cannot_pack="its trainer runs whole micro-batches",
        needs_reference=recipe.method.always_needs_reference or recipe.info.needs_reference,
        trained_adapters=recipe.method.trained_adapters,
        frozen_adapters=int(effective("reward_adapter") is not None),
        cached_tokens=completions * length,
        notes=(f"Prompts of {PROMPT} tokens are assumed. Times leave out the sampling of completions.",),
    )


def _length(recipe: Any) -> tuple[int, tuple[str, ...]]:
    length = recipe.effective("max_length")
    if length:
        return int(length), ()
    return UNLIMITED, (f"`max_length` sets no limit: planned for sequences of {UNLIMITED:,} tokens.",)


def _checkpointing(recipe: Any) -> bool | None:
    """What `gradient_checkpointing`, or its newer name, says; `None` for `auto`."""
    value = recipe.effective("activation_checkpointing")
    value = recipe.effective("gradient_checkpointing") if value is None else value
    value = {"true": True, "false": False}.get(str(value).lower(), value)
    return value if isinstance(value, bool) else None
