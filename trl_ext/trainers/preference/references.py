"""Where a row's reference values come from: the cache on disk, or a pass of the reference policy."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trl_ext.batching.packed import Tree, pack_joined
from trl_ext.reference.cache import ReferenceCache, default_limit
from trl_ext.reference.identity import describe_reference, reference_identity
from trl_ext.reference.implicit import implicit_reference
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.step_zero import is_8_bit
from trl_ext.trainers.preference import forward
from trl_ext.trainers.preference.forward import Completions


class References:
    """Mixin: scores rows under the reference.

    Attributes read: `args`, `model`, `loss`, `ref_model`, `precompute_ref_logps`, `_has_own_collator`, `_is_packed`.

    Attributes:
        reference_cache: Reference log-probabilities on disk; `None` before the first row and where none is used.
    """

    reference_cache: ReferenceCache | None = None
    _has_run_again = False  # whether memory ran out: cached values are then of longer rows than the policy's

    def _sequences(self, row: list[dict]) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion ids, truncated, of every completion of a row in the order they are scored."""
        raise NotImplementedError

    @property
    def _reads_live_reference(self) -> bool:
        """Whether reference values are asked for during training, rather than read from columns or never."""
        return self.loss.needs_reference and not self.precompute_ref_logps

    def _open_cache(self) -> None:
        if not self._reads_live_reference or not self.args.reference_cache or self.reference_cache is not None:
            return
        if self.args.sync_ref_model:
            return  # it moves, which is said where it is described
        reason = self._cannot_cache()
        if reason is not None:
            say(self.accelerator, f"reference: not cached: {reason}")
            return
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        self.reference_cache = ReferenceCache(
            reference_identity(self.model, dtype),
            limit_bytes=default_limit(),
            about=describe_reference(self.model, dtype),
        )

    def _cannot_cache(self) -> str | None:
        """Settings under which a completion's reference values depend on more than its tokens and the base."""
        if self.ref_model is not None:
            return "it is a second model"
        if self._has_own_collator:
            return "a data collator was given, and what it makes of an example is unknown"
        if getattr(self.args, "truncation_mode", "keep_start") != "keep_start":
            return "`truncation_mode: keep_end` cuts the prompt of each completion elsewhere"
        if self.args.bf16_full_eval or self.args.fp16_full_eval:
            return "evaluation in another precision (`bf16_full_eval`, `fp16_full_eval`) casts the base"
        rope = _rope_by_length(self.model.config)
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", 0)
        trained = rope and rope.get("original_max_position_embeddings", limit)
        if rope and (self.args.max_length is None or self.args.max_length > trained):
            return (
                f"beyond {trained:,} tokens its rotary embeddings ({rope['rope_type']}) depend on the longest sequence of "
                "a row; set `max_length` to that to use the cache"
            )
        return None

    def reference_counts(self) -> tuple[int, int] | None:
        """Different completions whose reference values were on disk, and those computed, over all processes.

        `None` if there is no cache. Every process has to ask.
        """
        cache = self.reference_cache
        counts = torch.tensor([0, 0] if cache is None else [cache.hits, cache.misses], device=self.args.device)
        hits, misses = self.accelerator.reduce(counts, reduction="sum").tolist()
        return (hits, misses) if cache is not None else None

    def _reference_ran_otherwise(self) -> bool:
        """Whether reference values may come from other rows or kernels than the policy's. Every process has to ask."""
        counts = self.reference_counts()
        is_cached = counts is not None and (counts[0] > 0 or self._has_run_again)
        has_greater_rank = self.args.sync_ref_model and self.args.ref_model_mixup_alpha < 1
        return is_cached or has_greater_rank or is_8_bit(self.model)

    @contextlib.contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        """The reference policy: the adapter-free base, or the second model of full fine-tuning."""
        if self.ref_model is not None:
            with torch.no_grad():
                yield self.ref_model
        else:
            with implicit_reference(self.model):
                yield self.model

    def _reference_fields(self, batch: dict[str, Any]) -> Completions:
        """Per-token reference log-probabilities of a row; what the cache does not know is computed and kept there."""
        if self.reference_cache is None:
            return self._run_reference(batch)
        keys = [self.reference_cache.key(*sequence) for sequence in batch["sequences"]]
        known = self.reference_cache.get(keys)
        unknown = [i for i, values in enumerate(known) if values is None]
        if unknown:
            computed = self._compute_reference(batch, unknown)
            self.reference_cache.put([keys[i] for i in unknown], computed)
            for i, values in zip(unknown, computed, strict=True):
                known[i] = values
        return forward.from_arrays(known, self.args.device)

    def _compute_reference(self, batch: dict[str, Any], which: list[int]) -> list[Any]:
        """Reference values of some completions of a row: packed, of those alone."""
        if self._is_packed:
            trees = [Tree(prompt, [completion]) for prompt, completion in (batch["sequences"][i] for i in which)]
            return forward.to_arrays(self._run_reference({"packed": pack_joined(trees).to(self.args.device)}))
        arrays = forward.to_arrays(self._run_reference(batch))
        return [arrays[i] for i in which]

    def _run_reference(self, batch: dict[str, Any]) -> Completions:
        with self._reference() as reference:
            return forward.run(reference, batch)


def _rope_by_length(config: Any) -> dict[str, Any] | None:
    """Parameters of rotary embeddings that depend on how long the longest sequence of a row is, if any do."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    return next((kind for kind in kinds if kind.get("rope_type") in ("longrope", "dynamic")), None)
