"""Score rows under the reference: read the cache on disk, or run the reference policy."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from trl_ext.batching.packed import Tree, pack_joined
from trl_ext.batching.token_kl import States
from trl_ext.reference.cache import ReferenceCache, default_limit, key_of
from trl_ext.reference.identity import describe_reference, reference_identity
from trl_ext.reference.implicit import implicit_reference
from trl_ext.trainers.common import forward
from trl_ext.trainers.common.forward import Completions
from trl_ext.trainers.common.processes import on_any_process
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.common.step_zero import is_8_bit


class References:
    """Look up or compute the reference log-probabilities of rows.

    Args:
        runtime: The policy. Its base model is the reference, unless there is a second model.
        second_model: The reference of full fine-tuning, or `None`.
        is_live: Whether values are needed during training, and not read from columns of the data.
        own_inputs: A clause about the user's code that makes the model's inputs from examples; `None` without such code.
        reads_distributions: Whether the loss compares whole distributions, for which the reference runs in every step.

    Attributes:
        cache: Log-probabilities on disk; `None` before the first row and where none is used.
        is_ahead: Whether values of the current or last step were computed before its rows (`ReferenceRows`).
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        second_model: nn.Module | None,
        is_live: bool,
        own_inputs: str | None,
        reads_distributions: bool = False,
    ) -> None:
        self.runtime = runtime
        self.second_model = second_model
        self.is_live = is_live
        self.own_inputs = own_inputs
        self.reads_distributions = reads_distributions
        self.cache: ReferenceCache | None = None
        self.is_ahead = False
        self._is_open = False
        self._kept: dict[bytes, np.ndarray] | None = None  # values of the current step; `None` outside of one

    # The cache ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the cache before the first row, if it is needed and can be used."""
        if not self._is_open:
            self._is_open = True
            self.cache = self.new_cache()

    def new_cache(self) -> ReferenceCache | None:
        """Open the cache on disk. Returns `None` if it is not used, and logs the reason if it cannot be."""
        model, args = self.runtime.model, self.runtime.args
        if not self.is_live or not args.reference_cache or args.sync_ref_model:
            return None  # the description of a moving reference says that it is not cached
        if (reason := self._cannot_cache()) is not None:
            self.runtime.say(f"reference: not cached: {reason}")
            return None
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        return ReferenceCache(
            reference_identity(model, dtype), limit_bytes=default_limit(), about=describe_reference(model, dtype)
        )

    def flush(self) -> None:
        """Write values that are still in memory to disk."""
        if self.cache is not None:
            self.cache.flush()

    def counts(self) -> tuple[int, int] | None:
        """Number of distinct completions read from the cache, and number computed, over all processes.

        `None` without a cache. Must be called on every process.
        """
        cache = self.cache
        counts = torch.tensor([0, 0] if cache is None else [cache.hits, cache.misses], device=self.runtime.device)
        hits, misses = self.runtime.accelerator.reduce(counts, reduction="sum").tolist()
        return (hits, misses) if cache is not None else None

    def ran_otherwise(self, has_run_again: bool) -> bool:
        """Whether values may come from other rows or kernels than the policy's. Must be called on every process.

        Args:
            has_run_again: A step was repeated: its cached values come from longer rows than the policy's.
        """
        args, counts = self.runtime.args, self.counts()
        is_ahead = on_any_process(self.runtime.accelerator, self.is_ahead)
        is_cached = counts is not None and (counts[0] > 0 or has_run_again)
        has_greater_rank = args.sync_ref_model and args.ref_model_mixup_alpha < 1
        return is_ahead or is_cached or has_greater_rank or is_8_bit(self.runtime.model)

    @property
    def depends_on_row(self) -> bool:
        """Whether the values of a completion depend on the other completions of its row, by more than rounding."""
        return self._trained_tokens() is not None

    def _cannot_cache(self) -> str | None:
        """Why the values depend on more than tokens and base model with these settings; `None` if they do not."""
        args = self.runtime.args
        if self.reads_distributions:
            return "the loss compares whole next-token distributions, so the reference runs in every step"
        if self.runtime.is_sharded:
            return "FSDP shards the base over the processes, and none has all its weights"
        if self.second_model is not None:
            return "it is a separate model"
        if self.own_inputs is not None:
            return f"{self.own_inputs}, which may change the tokens"
        if getattr(args, "truncation_mode", "keep_start") != "keep_start":
            return "`truncation_mode: keep_end` cuts the prompt differently for each completion"
        if args.bf16_full_eval or args.fp16_full_eval:
            return "evaluation in another precision (`bf16_full_eval`, `fp16_full_eval`) changes the dtype of the base"
        if (trained := self._trained_tokens()) is not None:
            kind = _rope_by_length(self.runtime.model.config)["rope_type"]
            return (
                f"beyond {trained:,} tokens the rotary embeddings ({kind}) depend on the longest sequence of "
                f"a row. Set `max_length: {trained}` to use the cache"
            )
        return None

    def _trained_tokens(self) -> int | None:
        """Tokens beyond which rotary embeddings depend on the longest sequence of a row, if sequences may be longer."""
        config, max_length = self.runtime.model.config, self.runtime.args.max_length
        if (rope := _rope_by_length(config)) is None:
            return None
        limit = getattr(config.get_text_config(), "max_position_embeddings", 0)
        trained = rope.get("original_max_position_embeddings", limit)
        return trained if max_length is None or max_length > trained else None

    # Values ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Context of a step, in which values that were added are known, with or without a cache."""
        self._kept, self.is_ahead = {}, False
        try:
            yield
        finally:
            self._kept = None

    def key(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> bytes:
        """Key of a completion, as in the cache."""
        return (key_of if self.cache is None else self.cache.key)(prompt_ids, completion_ids)

    def known(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Per-token log-probabilities of each key, from the step or from the cache; `None` if they are in neither."""
        kept = self._kept or {}
        found = [kept.get(key) for key in keys]
        missing = [i for i, values in enumerate(found) if values is None]
        if missing and self.cache is not None:
            for i, values in zip(missing, self.cache.get([keys[i] for i in missing]), strict=True):
                found[i] = values
                if self._kept is not None and values is not None:
                    self._kept[keys[i]] = values
        return found

    def add(self, keys: Sequence[bytes], arrays: Sequence[np.ndarray]) -> None:
        """Add the per-token log-probabilities of each key to the step and to the cache."""
        if self._kept is not None:
            self._kept.update(zip(keys, arrays, strict=True))
        if self.cache is not None:
            self.cache.put(keys, arrays)

    def score(self, batch: dict[str, Any]) -> Completions:
        """Per-token reference log-probabilities of a row. Unknown values are computed, and added to the cache."""
        if "sequences" not in batch or (self.cache is None and not self._kept):  # or collated elsewhere
            return self.run(batch)
        keys = [self.key(*sequence) for sequence in batch["sequences"]]
        known = self.known(keys)
        unknown = [i for i, values in enumerate(known) if values is None]
        if unknown:
            computed = self._compute(batch, unknown)
            self.add([keys[i] for i in unknown], computed)
            for i, values in zip(unknown, computed, strict=True):
                known[i] = values
        return forward.from_arrays(known, self.runtime.device)

    def run(self, batch: dict[str, Any], states: list[States] | None = None) -> Completions:
        """Run the reference policy on a row. The states before its LM head are added to `states`, if given."""
        with self.policy() as reference:
            return forward.run(reference, batch, states=states)

    @contextlib.contextmanager
    def policy(self) -> Iterator[nn.Module]:
        """Context of the reference policy, without gradients: the base without adapter, or the second model."""
        if self.second_model is not None:
            with torch.no_grad():
                yield self.second_model
        else:
            with implicit_reference(self.runtime.model):
                yield self.runtime.model

    def _compute(self, batch: dict[str, Any], which: list[int]) -> list[Any]:
        """Compute the values of some completions of a row; a packed row is packed again from these completions."""
        if "packed" in batch and len(which) < len(batch["sequences"]):
            trees = [Tree(prompt, [completion]) for prompt, completion in (batch["sequences"][i] for i in which)]
            return forward.to_arrays(self.run({"packed": pack_joined(trees).to(self.runtime.device)}))
        arrays = forward.to_arrays(self.run(batch))
        return [arrays[i] for i in which]


def _rope_by_length(config: Any) -> dict[str, Any] | None:
    """Parameters of rotary embeddings that depend on the longest sequence of a row; `None` if the model has none."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    return next((kind for kind in kinds if kind.get("rope_type") in ("longrope", "dynamic")), None)
