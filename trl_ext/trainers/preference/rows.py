"""Cut the examples of a step into rows and collate them: packed if the model supports it, otherwise padded."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import torch

from trl_ext.batching.packed import joined_tokens, pack_rows
from trl_ext.batching.padded import cut_rows
from trl_ext.batching.transfer import to_device
from trl_ext.trainers.common import forward, row_sample
from trl_ext.trainers.common.packing import PackingProof
from trl_ext.trainers.common.processes import largest_on_any_process
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.examples import ExampleTokens

SEQUENCES = ("input_ids", "attention_mask", "completion_mask")
"""Tensors (S, T) of TRL's collator of pairs."""


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
        whole = partial(self.tokens.with_two_completions, examples=examples)
        is_packed = self.is_packed = self.proof.decide(lambda: [whole(example) for example in examples])
        sample = partial(row_sample.make, whole(examples[0]), is_packed, self.runtime.device)
        self.memory.settle(sample, max(self.size([e]) for e in examples))

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
        if (learned := self.tokens.learned(row)) is not None:
            batch["learned"] = torch.tensor(
                list(chain.from_iterable(learned)), dtype=torch.bool, device=self.runtime.device
            )
        return batch

    def padded(self, examples: list[dict]) -> dict[str, Any]:
        """Collate examples by the trainer's collator, without packing."""
        batch = self.tokens.values(examples) | dict(self.collator(examples))
        for name in self.tokens.completions[2:]:  # TRL's collator knows pairs
            alone = self.collator(
                [{**example, "chosen_ids": example[name], "rejected_ids": []} for example in examples]
            )
            batch |= {key: _below(batch[key], alone[key][: len(examples)]) for key in SEQUENCES}
        if "completion_mask" in batch:
            batch["places"] = forward.scored_places(batch["completion_mask"])
        return self.runtime.to_device(to_device(batch, self.runtime.device))


def _below(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """The rows of two tensors (S, T), padded on the right by zeros, which masks leave out."""
    width = max(upper.size(1), lower.size(1))
    return torch.cat([torch.nn.functional.pad(rows, (0, width - rows.size(1))) for rows in (upper, lower)])
