"""Cut the examples of a step into rows, and collate a row: packed where the model allows it, padded elsewhere."""

from collections.abc import Callable
from typing import Any

from trl_ext.batching.packed import Tree, joined_tokens, pack, pack_rows
from trl_ext.batching.padded import cut_rows, padded_batch
from trl_ext.trainers.preference.examples import ExampleTokens
from trl_ext.trainers.preference.packing import PackingProof
from trl_ext.trainers.preference.row_memory import RowMemory
from trl_ext.trainers.preference.runtime import Runtime

SAMPLE_TOKENS = 256
"""Tokens of the row on which memory is measured: enough to average over, few enough to fit anywhere."""


class Rows:
    """Turns examples into the batches of forward passes.

    Args:
        runtime: Device and processes.
        tokens: Reads the examples.
        memory: Says how many tokens a row may hold.
        proof: Decides whether rows are packed.
        collator: Makes padded rows.

    Attributes:
        is_packed: Whether they are; `None` before the first row.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokens: ExampleTokens,
        memory: RowMemory,
        proof: PackingProof,
        collator: Callable[[list[dict]], dict[str, Any]],
    ) -> None:
        self.runtime = runtime
        self.tokens = tokens
        self.memory = memory
        self.proof = proof
        self.collator = collator
        self.is_packed: bool | None = None

    def prepare(self, examples: list[dict]) -> None:
        """Before the first forward pass, decide whether rows are packed and how long they are."""
        if self.is_packed is not None:
            return
        self.is_packed = self.proof.decide(examples)
        self.memory.settle(lambda times: self._sample(examples, times), max(self.size([e]) for e in examples))

    def cut(self, examples: list[dict]) -> list[list[dict]]:
        """The examples in as few rows as memory allows."""
        limit = self.memory.row_tokens
        if self.is_packed:
            return pack_rows(examples, self.tokens.tree, limit)
        return cut_rows(examples, self.tokens.length, sequences=self.tokens.per_example, row_tokens=limit)

    def size(self, row: list[dict]) -> int:
        """Tokens a row computes."""
        if self.is_packed:
            return joined_tokens([self.tokens.tree(example) for example in row])
        return self.tokens.per_example * len(row) * max(map(self.tokens.length, row))

    def collate(self, row: list[dict]) -> dict[str, Any]:
        """The tensors of a row, and under `sequences` the token ids by which its reference values are known."""
        batch = self.tokens.pack(row) if self.is_packed else self.runtime.to_device(self.collator(row))
        batch["sequences"] = self.tokens.sequences(row)
        return batch

    def _sample(self, examples: list[dict], times: int) -> tuple[dict[str, Any], int]:
        """A row made of the first example, `times` as long as the shortest such row, and its tokens."""
        tree = self.tokens.with_two_completions(examples[0], examples)
        tree = Tree(tree.prompt[-SAMPLE_TOKENS // 2 :], [c[: SAMPLE_TOKENS // 4] for c in tree.completions])
        repeats = max(SAMPLE_TOKENS // max(tree.tokens, 1), 1) * times
        if self.is_packed:
            row = pack([tree] * repeats)
            return {"packed": row.to(self.runtime.device)}, row.input_ids.numel()
        one = padded_batch(tree, pad_token_id=0)  # any id: padding is masked
        batch = self.runtime.to_device({name: ids.repeat(repeats, 1) for name, ids in one.items()})
        return batch, batch["input_ids"].numel()
