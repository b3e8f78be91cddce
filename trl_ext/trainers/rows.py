"""Rows: which forward passes the examples of a step become, and where their reference values come from."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from trl_ext.batching import attention, budget, kernels, proof
from trl_ext.batching.packed import Tree, joined_tokens, pack, pack_rows
from trl_ext.batching.padded import cut_rows, padded_batch
from trl_ext.reference.cache import ReferenceCache
from trl_ext.reference.identity import describe_reference, reference_identity
from trl_ext.reference.implicit import implicit_reference, no_grad_eval
from trl_ext.trainers import completions, lora, memory
from trl_ext.trainers.completions import Completions
from trl_ext.trainers.step_zero import say

TRIAL_TOKENS = 256
"""Tokens of the row on which the memory of a step is measured: enough to average over, few enough to fit anywhere."""
SAMPLE = 1000
"""Training examples looked at for the longest."""


class Rows:
    """Mixin: cuts examples into rows, packed where this model allows it, and scores them under the reference.

    Attributes read: `args`, `model`, `loss`, `ref_model`, `data_collator`, `aux_loss_enabled`.

    Attributes:
        reference_cache: Reference log-probabilities on disk; `None` before the first row and where none is used.
    """

    _sequences_per_example: int
    _is_packed: bool | None = None  # undecided before the first row
    _row_budget: int | None = None  # tokens; settled before the first row, lowered where memory runs out
    _layers: list[nn.Module] | None = None  # in the order they run, where checkpointing is ours to choose
    _checkpointed_layers: int = 0  # of them
    _has_own_collator = False
    reference_cache: ReferenceCache | None = None

    # What a subclass provides ---------------------------------------------------------------------------------

    def _length(self, example: dict) -> int:
        """Tokens of the example's longest sequence after truncation."""
        raise NotImplementedError

    def _tree(self, example: dict) -> Tree:
        """The example as a prompt with its completions, truncated."""
        raise NotImplementedError

    def _proof_tree(self, example: dict, examples: list[dict]) -> Tree:
        """A prompt with at least two completions to try packing on."""
        raise NotImplementedError

    def _sequences(self, row: list[dict]) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion ids, truncated, of every completion of a row in the order they are scored."""
        raise NotImplementedError

    def _pack(self, row: list[dict]) -> dict[str, Any]:
        """A packed row and whatever columns of the examples the loss and the metrics read."""
        raise NotImplementedError

    # Cutting ----------------------------------------------------------------------------------------------------

    def _rows(self, examples: list[dict]) -> list[list[dict]]:
        """The examples in as few rows as their budget allows."""
        if self._is_packed:
            return pack_rows(examples, self._tree, self.row_tokens)
        return cut_rows(examples, self._length, sequences=self._sequences_per_example, row_tokens=self.row_tokens)

    @property
    def row_tokens(self) -> int:
        """Tokens a row may hold."""
        if self._row_budget is not None:
            return self._row_budget
        return budget.LARGEST_ROW if self.args.row_tokens == "auto" else self.args.row_tokens

    def _collate(self, row: list[dict]) -> dict[str, Any]:
        batch = self._pack(row) if self._is_packed else self._prepare_inputs(self.data_collator(row))
        if self.reference_cache is not None:
            batch["reference_keys"] = [self.reference_cache.key(*pair) for pair in self._sequences(row)]
        return batch

    def _prepare_rows(self, examples: list[dict]) -> None:
        """Before the first forward: open the reference cache, decide whether rows are packed, and how large they are.

        Rows are packed from then on if this very model computes the same on packed rows as on padded ones.
        """
        if self._is_packed is not None:
            return
        self._open_cache()
        self._decide_on_packing(examples)
        self._settle_memory(examples)

    def _open_cache(self) -> None:
        if (
            self.reference_cache is None
            and self.args.reference_cache
            and not self.args.sync_ref_model
            and self.loss.needs_reference
            and self.ref_model is None
        ):
            dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
            self.reference_cache = ReferenceCache(
                reference_identity(self.model, dtype), about=describe_reference(self.model, dtype)
            )

    def _decide_on_packing(self, examples: list[dict]) -> None:
        if not self.args.packing:
            self._is_packed = False
            return
        reason, measured = self._locally(lambda: self._proof(examples))
        if self._on_any_process(reason is not None) and reason is None:
            reason = "another process could not prove it"
        if reason is None:
            say(self, f"rows: packed, prompts shared, {measured}")
        else:
            say(self, f"rows: padded, sorted by length; packing is off for this model: {reason}")
        self._is_packed = reason is None

    def _proof(self, examples: list[dict]) -> proof.Outcome:
        """Switch the model to the fastest kernel that computes on packed rows what padded ones give."""
        base = self._base_model()
        reason = proof.known_to_be_wrong(base.config) or self._cannot_pack()
        if reason is not None:
            return proof.Outcome(reason)
        trees = sorted((self._proof_tree(example, examples) for example in examples), key=lambda tree: tree.tokens)
        tree = trees[-1 if getattr(base.config.get_text_config(), "sliding_window", None) else len(trees) // 2]

        def score(batch: dict[str, Any]) -> torch.Tensor:
            return completions.run(self.model, batch).per_token_logps.float().sum(dim=1)

        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.model.dtype
        before, slower = None, ""
        with no_grad_eval(self.model), self.compute_loss_context_manager():
            padded = score(self._prepare_inputs(padded_batch(tree, self.data_collator.pad_token_id)))
            for kernel in kernels.usable(self.args.device, dtype):
                before = attention.switch(base, kernel)
                outcome = proof.prove(lambda row: score({"packed": row}), padded, tree, dtype)
                if outcome.reason is None:
                    return proof.Outcome(None, outcome.measured + slower)
                slower = f"; not {kernels.IN_WORDS[kernel].removeprefix('attention ')}: {outcome.reason}"
        base.set_attn_implementation(before)
        return outcome

    def _settle_memory(self, examples: list[dict]) -> None:
        """Choose how long rows are and how many layers are recomputed, where that is left to us.

        Each process chooses for its own device. A resumed run keeps the row length of its checkpoint, so that it
        adds in the same order; recomputing changes no number.
        """
        is_auto = self.args.gradient_checkpointing == "auto"
        given = self._row_budget or (None if self.args.row_tokens == "auto" else self.args.row_tokens)
        if given is not None and not is_auto:
            return
        base = self._base_model()
        sizes = [self._row_size([example]) for example in [*examples, *self._sample_of_training_data()]]
        try:
            with memory.nothing_checkpointed(base):
                measured, layers = self._locally(lambda: memory.footprint(base, *self._trial_pass(examples)))
        except memory.RowsDoNotFitError:
            if is_auto:
                self._layers = memory.layers_of(base)
                self._checkpoint_layers(len(self._layers))
            self._row_budget = given or max(sizes)
            say(self, "memory: not even a short row fits with all activations kept, so every layer is recomputed")
            return
        free = memory.free_for_activations(base, self.optimizer, str(self.args.optim), self.args.device)
        count = None if is_auto else len(layers) * bool(self.args.gradient_checkpointing)
        choice = budget.choose(measured, free, max(sizes), row_tokens=given, checkpointed_layers=count)
        self._row_budget = choice.row_tokens
        if is_auto:
            self._layers = layers
            self._checkpoint_layers(choice.checkpointed_layers)
        say(self, f"memory: rows of {budget.in_words(choice, measured, free)}")

    def _trial_pass(self, examples: list[dict]) -> tuple[Callable[[], torch.Tensor], int]:
        """A forward pass with gradients over about `TRIAL_TOKENS` tokens of the first example, and how many they are."""
        tree = self._proof_tree(examples[0], examples)
        tree = Tree(tree.prompt[-TRIAL_TOKENS // 2 :], [c[: TRIAL_TOKENS // 4] for c in tree.completions])
        if self._is_packed:
            row = pack([tree] * max(TRIAL_TOKENS // max(tree.tokens, 1), 1))
            batch, tokens = {"packed": row.to(self.args.device)}, row.input_ids.numel()
        else:
            batch = self._prepare_inputs(padded_batch(tree, pad_token_id=0))  # any id: padding is masked
            tokens = batch["input_ids"].numel()

        def run() -> torch.Tensor:
            was_training = self.model.training
            self.model.train()
            try:
                with torch.random.fork_rng(), self.compute_loss_context_manager():
                    return completions.run(self.model, batch).per_token_logps.sum()
            finally:
                self.model.train(was_training)

        return run, tokens

    def _sample_of_training_data(self) -> list[dict]:
        """Training examples from which to learn how long they get; none of a stream."""
        if not isinstance(self.train_dataset, Dataset):
            return []
        count = min(SAMPLE, len(self.train_dataset))
        return list(self.train_dataset.select(random.Random(0).sample(range(len(self.train_dataset)), count)))

    def _checkpoint_layers(self, count: int) -> bool:
        """Recompute the first `count` layers, if that is ours to choose; whether it changed anything."""
        if self._layers is None or count == self._checkpointed_layers:
            return False
        self._checkpointed_layers = count
        memory.checkpoint(self._base_model(), self._layers, count, **(self.args.gradient_checkpointing_kwargs or {}))
        return True

    def _base_model(self) -> nn.Module:
        return self.model.get_base_model() if lora.has_adapter(self.model) else self.model

    def _cannot_pack(self) -> str | None:
        """Settings under which packed and padded rows differ by definition."""
        if self.ref_model is not None:
            return "a second reference model is in use"
        if self._has_own_collator:
            return "a data collator was given, and packed rows would not use it"
        if self.aux_loss_enabled:
            return "the auxiliary loss of a mixture of experts counts a shared prompt once"
        if getattr(self.args, "truncation_mode", "keep_start") != "keep_start":
            return "`truncation_mode: keep_end` cuts the prompt of each completion elsewhere"
        if lora.has_adapter(self.model) and self.model.active_peft_config.is_prompt_learning:
            return "prompt learning prepends virtual tokens to every sequence"
        return None

    def _truncated(self, prompt: list[int], *completions: list[int]) -> Tree:
        """A prompt with its completions, each cut where `max_length` ends the sequence."""
        room = None if self.args.max_length is None else max(self.args.max_length - len(prompt), 0)
        return Tree(prompt[: self.args.max_length], [completion[:room] for completion in completions])

    def _num_tokens(self, example: dict) -> int:
        """Tokens of the example's sequences, the prompt counted once per completion, as TRL counts."""
        tree = self._tree(example)
        return sum(len(tree.prompt) + len(completion) for completion in tree.completions)

    def _row_size(self, row: list[dict]) -> int:
        """Tokens a row computes."""
        if self._is_packed:
            return joined_tokens([self._tree(example) for example in row])
        return self._sequences_per_example * len(row) * max(map(self._length, row))

    # The reference ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        """The reference policy: the adapter-free base, or the second model of full fine-tuning."""
        if self.ref_model is not None:
            with torch.no_grad():
                yield self.ref_model
        else:
            with implicit_reference(self.model):
                yield self.model

    def reference_counts(self) -> tuple[int, int] | None:
        """Completions found in the reference cache and those not, over all processes; `None` if none was opened.

        Every process has to ask.
        """
        cache = self.reference_cache
        counts = torch.tensor([0, 0] if cache is None else [cache.hits, cache.misses], device=self.args.device)
        hits, misses = self.accelerator.reduce(counts, reduction="sum").tolist()
        return (hits, misses) if cache is not None else None

    def _reference_fields(self, batch: dict[str, Any]) -> Completions:
        """Per-token reference log-probabilities of a row: from the cache, or computed and kept there."""
        keys = batch.get("reference_keys")
        known = [None] if keys is None else self.reference_cache.get(keys)
        if all(values is not None for values in known):
            return completions.from_arrays(known, self.args.device)
        with self._reference() as reference:
            fields = completions.run(reference, batch)
        if keys is not None:
            self.reference_cache.put(keys, completions.to_arrays(fields))
        return fields
