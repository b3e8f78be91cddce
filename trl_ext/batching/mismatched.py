"""Make mismatched pairs for the KTO baseline: completions of a step under the prompts of other examples."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

OF_COMPLETIONS = ("completion_ids", "completion_learned")
"""Columns that go with a completion."""


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()


def partners(examples: Iterable[dict]) -> list[int | None]:
    """For each example, which example's completion its prompt is paired with; `None` if there is none.

    The examples are grouped by prompt, the groups are sorted by content, and the completions are rotated by the size of the
    largest group. Then no completion is paired with its own prompt, unless more than half of the examples have the same
    prompt; such completions are left out. The pairs do not depend on the order of the examples or on their distribution
    over processes.

    Args:
        examples: `prompt_ids` and `completion_ids` of each example. They are read once.
    """
    keyed = sorted((_digest(e["prompt_ids"]), _digest(e["completion_ids"]), i) for i, e in enumerate(examples))
    shift = max(Counter(prompt for prompt, _, _ in keyed).values(), default=0)
    found: list[int | None] = [None] * len(keyed)
    for here, (prompt, _, i) in enumerate(keyed):
        other, _, j = keyed[(here + shift) % len(keyed)]
        if other != prompt:
            found[i] = j
    return found


def mismatched(examples: Sequence[dict]) -> list[dict]:
    """Pair each prompt of a step with the completion of an example that has another prompt (`partners`).

    Args:
        examples: All examples of one optimizer step, over all processes.

    Returns:
        Pairs (x_i, y_j) with x_i ≠ x_j: example i with the completion of example j. Empty if all prompts are the same.
    """
    return [
        example | {name: examples[j][name] for name in OF_COMPLETIONS if name in examples[j]}
        for example, j in zip(examples, partners(examples), strict=True)
        if j is not None
    ]
