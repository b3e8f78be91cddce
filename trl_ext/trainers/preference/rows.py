"""Cut the examples of a step into rows and collate them: packed if the model supports it, otherwise padded."""

from collections.abc import Callable
from typing import Any

from trl_ext.batching.packed import Tree, joined_tokens, pack, pack_rows
from trl_ext.batching.padded import cut_rows, padded_batch
from trl_ext.batching.transfer import to_device
from trl_ext.trainers.common.processes import largest_on_any_process
from trl_ext.trainers.preference import forward
from trl_ext.trainers.preference.examples import ExampleTokens
from trl_ext.trainers.preference.packing import PackingProof
from trl_ext.trainers.preference.row_memory import RowMemory
from trl_ext.trainers.preference.runtime import Runtime

SAMPLE_TOKENS = 256
"""Tokens of the row on which memory is measured: enough for a good average, few enough to fit on any GPU."""


class Rows:
    """Turn examples into the batches of forward passes.

    Args:
        runtime: The trainer's.
        tokens: Reads the examples.
        memory: Limits the tokens of a row.
        proof: Decides whether rows are packed.
        collator: Makes padded rows.

    Attributes:
        is_packed: Whether rows are packed; `None` before the first row.
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
        """Decide, before the first row, whether rows are packed and how long they are."""
        if self.is_packed is not None:
            return
        self.is_packed = self.proof.decide(examples)
        self.memory.settle(lambda times: self._sample(examples, times), max(self.size([e]) for e in examples))

    def cut(self, examples: list[dict]) -> list[list[dict]]:
        """Cut examples into as few rows as memory allows."""
        limit = self.memory.row_tokens
        if self.is_packed:
            return pack_rows(examples, self.tokens.tree, limit)
        return cut_rows(examples, self.tokens.length, sequences=self.tokens.per_example, row_tokens=limit)

    def together(self, rows: list[list[dict]], examples: list[dict]) -> list[tuple[list[dict], bool]]:
        """The rows to run, each with whether it counts.

        Processes that share a sharded model all run the same number of rows, because every pass through a layer gathers its
        weights from all of them. A process with fewer rows runs its shortest example again, which must have no effect.
        Every process has to call this.

        Args:
            rows: The rows of this process.
            examples: Not empty. The shortest is repeated.
        """
        counted = [(row, True) for row in rows]
        if not self.runtime.is_sharded:
            return counted
        missing = largest_on_any_process(self.runtime.accelerator, len(rows)) - len(rows)
        shortest = min(examples, key=lambda example: self.size([example]))
        return counted + [([shortest], False)] * missing

    def size(self, row: list[dict]) -> int:
        """Tokens that a row computes, padding included."""
        if self.is_packed:
            return joined_tokens([self.tokens.tree(example) for example in row])
        return self.tokens.per_example * len(row) * max(map(self.tokens.length, row))

    def collate(self, row: list[dict]) -> dict[str, Any]:
        """Collate a row. `sequences` holds the token ids that are its keys in the reference cache."""
        batch = self.tokens.pack(row) if self.is_packed else self.padded(row)
        batch["sequences"] = self.tokens.sequences(row)
        return batch

    def padded(self, examples: list[dict]) -> dict[str, Any]:
        """Collate examples by the trainer's collator, without packing."""
        batch = dict(self.collator(examples))
        if "completion_mask" in batch:
            batch["places"] = forward.scored_places(batch["completion_mask"])
        return self.runtime.to_device(to_device(batch, self.runtime.device))

    def _sample(self, examples: list[dict], times: int) -> tuple[dict[str, Any], int]:
        """Make a row of copies of the first example, `times` as long as the shortest. Returns it and its tokens."""
        tree = self.tokens.with_two_completions(examples[0], examples)
        tree = Tree(tree.prompt[-SAMPLE_TOKENS // 2 :], [c[: SAMPLE_TOKENS // 4] for c in tree.completions])
        repeats = max(SAMPLE_TOKENS // max(tree.tokens, 1), 1) * times
        if self.is_packed:
            row = pack([tree] * repeats)
            return {"packed": row.to(self.runtime.device)}, row.input_ids.numel()
        one = padded_batch(tree, pad_token_id=0)  # any id: padding is masked
        batch = self.runtime.to_device({name: ids.repeat(repeats, 1) for name, ids in one.items()})
        return batch, batch["input_ids"].numel()
