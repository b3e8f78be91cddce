"""Rows: which forward passes the examples of a step become."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from trl_ext.batching import attention, kernels, proof
from trl_ext.batching.packed import PackedRow, Tree, joined_tokens, pack_rows
from trl_ext.batching.padded import cut_rows, padded_batch
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.trainers.common import lora
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.out_of_memory import RowsDoNotFitError, is_out_of_memory
from trl_ext.trainers.common.processes import on_any_process
from trl_ext.trainers.preference import forward
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.row_memory import RowMemory

T = TypeVar("T")


class Rows(References, RowMemory):
    """Mixin: cuts examples into rows, packed where this model allows it.

    Attributes read: `args`, `accelerator`, `model`, `loss`, `ref_model`, `data_collator`, `aux_loss_enabled`.
    """

    _sequences_per_example: int
    _is_packed: bool | None = None  # undecided before the first row
    _has_own_collator = False
    _ran_out = False  # whether this process was one whose memory ran out

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

    def _pack(self, row: list[dict]) -> dict[str, Any]:
        """A packed row and whatever columns of the examples the loss and the metrics read."""
        raise NotImplementedError

    # Cutting ----------------------------------------------------------------------------------------------------

    def _rows(self, examples: list[dict]) -> list[list[dict]]:
        """The examples in as few rows as their budget allows."""
        if self._is_packed:
            return pack_rows(examples, self._tree, self.row_tokens)
        return cut_rows(examples, self._length, sequences=self._sequences_per_example, row_tokens=self.row_tokens)

    def _collate(self, row: list[dict]) -> dict[str, Any]:
        batch = self._pack(row) if self._is_packed else self._prepare_inputs(self.data_collator(row))
        if self.reference_cache is not None:
            batch["sequences"] = self._sequences(row)
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

    def _decide_on_packing(self, examples: list[dict]) -> None:
        if not self.args.packing:
            self._is_packed = False
            return
        reason, measured = self._locally(lambda: self._proof(examples))
        if on_any_process(self.accelerator, reason is not None) and reason is None:
            reason = "another process could not prove it"
        if reason is None:
            say(self.accelerator, f"rows: packed, prompts shared, {measured}")
        else:
            say(self.accelerator, f"rows: padded, sorted by length; packing is off for this model: {reason}")
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
            return forward.run(self.model, batch).per_token_logps.float().sum(dim=1)

        def score_packed(row: PackedRow) -> torch.Tensor:
            return score({"packed": row})

        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else self.model.dtype
        slower = ""
        with self.compute_loss_context_manager(), no_grad_eval(self.model):
            padded = score(self._prepare_inputs(padded_batch(tree, self.data_collator.pad_token_id)))
            for kernel in kernels.usable(self.args.device, dtype):
                before = attention.switch(base, kernel)
                outcome = proof.prove(score_packed, padded, tree, dtype)
                if outcome.reason is None and kernel != kernels.SEGMENTS:
                    # A kernel that is not ours has a backward pass of its own to prove.
                    outcome = proof.prove_gradient(score_packed, tree, self.args.device, outcome)
                if outcome.reason is None:
                    return proof.Outcome(None, outcome.measured + slower)
                slower = f"; not {kernels.IN_WORDS[kernel].removeprefix('attention ')}: {outcome.reason}"
        base.set_attn_implementation(before)
        return outcome

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

    # Running ----------------------------------------------------------------------------------------------------

    def _locally(self, work: Callable[[], T]) -> T:
        """Run rows without talking to other processes, then find out whether memory ran out on any of them.

        Raises:
            RowsDoNotFitError: On every process, so that none waits for one that gave up.
        """
        result, fits = None, False
        try:
            result, fits = work(), True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._ran_out = not fits
        if on_any_process(self.accelerator, not fits):
            raise RowsDoNotFitError
        return result
