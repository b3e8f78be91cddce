"""Read how a recipe's trainer processes examples: their length, how many run at once, and additional passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl_ext import methods
from trl_ext.planner.cards import Passes
from trl_ext.rl import advantages, policy_gradient

UNLIMITED = 2048
"""Assumed tokens of a sequence if no setting limits them."""
PROMPT = 512
"""Assumed tokens of a prompt for which completions are sampled; no setting limits them."""

GREEDY = (
    "The greedy completions, one for each prompt, are sampled after the others and need no more memory than these. They "
    "take additional time."
)


@dataclass(frozen=True)
class Training:
    """Examples and passes.

    Attributes:
        sequences: Sequences per example: 2 for pairs.
        length: Maximum tokens of a sequence.
        length_key: The setting that limits it.
        row_tokens: Row length given by the recipe; `None` if the run chooses it.
        owns_rows: Whether rows are cut to fit memory; other trainers run whole micro-batches.
        checkpointing: Whether all layers are checkpointed; `None` if the run chooses the number.
        cannot_pack: Why this trainer pads; `None` if it packs.
        needs_reference: Whether a reference is computed or cached.
        reads_distributions: Whether the loss compares whole next-token distributions of policy and reference.
        extra_passes: Additional passes without gradient.
        headless_passes: Those without the LM head, per example of a step.
        is_classifier: Whether it trains a scalar head instead of the LM head.
        trained_adapters, frozen_adapters: Numbers of adapters on the base. Frozen ones are those that this trainer adds, in
            units of the trained rank.
        uses: How many completions in the steps of an epoch belong to one example of the data: for sampled completions, those of
            a prompt times the epochs over a rollout.
        cached_tokens: Tokens in the KV cache while completions are sampled.
        is_cache_static: Whether the KV cache has its final size from the beginning (`cache_implementation`).
        notes: Sentences about assumptions.
    """

    sequences: int
    length: int
    length_key: str = "max_length"
    row_tokens: int | None = None
    owns_rows: bool = False
    checkpointing: bool | None = None
    cannot_pack: str | None = None
    needs_reference: bool = False
    reads_distributions: bool = False
    extra_passes: int = 0
    headless_passes: float = 0
    is_classifier: bool = False
    trained_adapters: int = 1
    frozen_adapters: int = 0
    uses: int = 1
    cached_tokens: int = 0
    is_cache_static: bool = False
    notes: tuple[str, ...] = ()

    @property
    def passes(self) -> Passes:
        """The passes of a step."""
        return Passes(int(self.needs_reference), self.extra_passes, self.headless_passes, self.trained_adapters)


def read(recipe: Any) -> Training:
    """Read the `Training` of a `trl_ext.recipe.Recipe`."""
    return methods.imported(recipe.method.planner)(recipe)


def preferences(recipe: Any) -> Training:
    """A loss on given preferences: rows are cut to fit memory."""
    info = recipe.info
    length, notes = _length(recipe)
    return Training(
        sequences=len(recipe.method.completions),
        length=length,
        row_tokens=_row_tokens(recipe),
        owns_rows=True,
        checkpointing=_checkpointing(recipe),
        cannot_pack=_padding(recipe),
        needs_reference=info.needs_reference,
        reads_distributions=info.reads_distributions,
        extra_passes=int("z_ref" in info.inputs) + int(info.coupled),
        frozen_adapters=_moving_reference(recipe),
        notes=notes,
    )


def _moving_reference(recipe: Any) -> int:
    """Adapters of a reference that is synchronised during the run; a mixture of two has twice the rank."""
    if not recipe.effective("sync_ref_model"):
        return 0
    return 1 if recipe.effective("ref_model_mixup_alpha") == 1 else 2


def micro_batches(recipe: Any) -> Training:
    """A reward model on pairs, or supervised fine-tuning: a forward pass is `per_device_train_batch_size` examples."""
    length, notes = _length(recipe)
    sequences = len(recipe.method.completions)
    checkpointing = _checkpointing(recipe)
    cannot_choose = recipe.effective("activation_offloading") or recipe.effective("torch_compile")
    return Training(
        sequences=sequences,
        length=length,
        row_tokens=recipe.effective("per_device_train_batch_size") * sequences * length,
        checkpointing=True if checkpointing is None and cannot_choose else checkpointing,
        cannot_pack="its trainer runs whole micro-batches",
        is_classifier=recipe.method.trains_scores,
        notes=notes,
    )


def sampled(recipe: Any) -> Training:
    """Policy and critic, if there is one, are trained adapters on one base, a reward model may be another, frozen one."""
    effective = recipe.effective
    advantage = effective("advantage") and advantages.describe(effective("advantage"))
    length = PROMPT + (effective("max_completion_length") or UNLIMITED)
    batch = effective("per_device_train_batch_size")
    completions = effective("generation_batch_size") or batch * (
        effective("steps_per_generation") or effective("gradient_accumulation_steps")
    )
    settled = policy_gradient.settled(effective) if advantage else {}
    has_critic, has_reward_adapter = (
        bool(advantage and advantage.needs_critic),
        effective("reward_adapter") is not None,
    )
    return Training(
        sequences=1,
        uses=(settled.get("num_generations") or effective("num_generations")) * effective("num_iterations"),
        length=length,
        length_key=recipe.method.length_key,
        row_tokens=_row_tokens(recipe),
        owns_rows=True,
        checkpointing=_checkpointing(recipe),
        cannot_pack=_padding(recipe),
        needs_reference=recipe.needs_reference,
        # Values and scores are computed once for the epochs over a rollout.
        headless_passes=(has_critic + has_reward_adapter) / effective("num_iterations"),
        trained_adapters=1 + has_critic,
        frozen_adapters=int(has_reward_adapter),
        cached_tokens=0 if effective("use_vllm") else completions * length,
        is_cache_static="static" in str(effective("cache_implementation")),
        notes=(
            f"The plan assumes prompts of {PROMPT} tokens. Its times do not include the sampling of completions.",
            *((GREEDY,) if advantage and advantage.needs_greedy else ()),
        ),
    )


def _row_tokens(recipe: Any) -> int | None:
    """The value of `row_tokens`; `None` for `auto`."""
    rows = recipe.effective("row_tokens")
    return None if rows in (None, "auto") else int(rows)


def _padding(recipe: Any) -> str | None:
    """Why rows are padded, by the settings; `None` if they are packed."""
    return None if recipe.effective("packing") else "`packing` is off"


def _length(recipe: Any) -> tuple[int, tuple[str, ...]]:
    length = recipe.effective("max_length")
    if length:
        return int(length), ()
    return UNLIMITED, (f"`max_length` is not set. The plan assumes sequences of {UNLIMITED:,} tokens.",)


def _checkpointing(recipe: Any) -> bool | None:
    """The value of `gradient_checkpointing` or its newer name; `None` for `auto`."""
    value = recipe.effective("activation_checkpointing")
    value = recipe.effective("gradient_checkpointing") if value is None else value
    value = {"true": True, "false": False}.get(str(value).lower(), value)
    return value if isinstance(value, bool) else None
