"""Score all completions of a step under the reference before the policy's rows, in longer rows.

A pass without gradient keeps no activations, so a row may hold several times as many tokens in the same memory. A 4-bit base is
then dequantised fewer times, adapters are switched once, and no values are read back between the policy's rows.
"""

from collections.abc import Sequence

import numpy as np

from trl_ext.batching.packed import Tree, pack_joined, pack_rows
from trl_ext.trainers.common import forward
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.rows import Rows

Completion = tuple[list[int], list[int]]
"""Token ids of a prompt and of a completion, after truncation (`ExampleTokens.sequences`)."""


class ReferenceRows:
    """Look up or compute the reference log-probabilities of completions.

    Args:
        runtime, rows, references: The trainer's.
        memory: Limits the tokens of a row.
    """

    def __init__(self, runtime: Runtime, rows: Rows, references: References, memory: RowMemory) -> None:
        self.runtime = runtime
        self.rows = rows
        self.references = references
        self.memory = memory

    @property
    def are_used(self) -> bool:
        """Whether completions are scored in rows of their own, with the same values up to rounding.

        Processes that share a sharded model run the rows of the policy together (`Rows.together`).
        """
        shares_base = self.references.second_model is None and not self.references.depends_on_row
        return bool(self.rows.is_packed) and shares_base and not self.runtime.is_sharded

    def score(self, completions: Sequence[Completion], examples: list[dict]) -> list[np.ndarray]:
        """Per-token log-probabilities of each completion, float32 of shape (tokens,); `References.kept` keeps them.

        Prompts are shared between completions, and equal completions are computed once.

        Args:
            completions: Those of a step on this process.
            examples: The examples they are from. A row may be some times as long as the longest of them.
        """
        keys = [self.references.key(*completion) for completion in completions]
        known = dict(zip(keys, self.references.known(keys), strict=True))
        missing = {key: one for key, one in zip(keys, completions, strict=True) if known[key] is None}
        if missing:
            self.references.is_ahead = True
            longest = max(self.rows.size([example]) for example in examples)
            rows = pack_rows(list(missing.items()), _tree, self.memory.reference_tokens(longest))
            with self.references.policy() as reference, self.runtime.autocast():
                for row in rows:
                    packed = pack_joined([_tree(one) for one in row])
                    with self.memory.reference_row(packed.input_ids.numel()):
                        batch = {"packed": packed.to(self.runtime.device)}
                        computed = forward.to_arrays(forward.run(reference, batch))
                    added = [key for key, _ in row]
                    self.references.add(added, computed)
                    known.update(zip(added, computed, strict=True))
        return [known[key] for key in keys]


def _tree(item: tuple[bytes, Completion]) -> Tree:
    prompt, completion = item[1]
    return Tree(prompt, [completion])
