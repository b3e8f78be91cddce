"""Make mismatched pairs for the KTO baseline: completions of a step under the prompts of other examples."""

import hashlib
from array import array
from collections.abc import Sequence


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()


def mismatched(examples: Sequence[dict]) -> list[dict]:
    """Pair each prompt of a step with the completion of an example that has another prompt.

    The examples are grouped by prompt, the groups are sorted by content, and the completions are rotated by the size of the
    largest group. Then no completion is paired with its own prompt, unless more than half of the examples have the same
    prompt; such completions are left out. The pairs do not depend on the order of the examples or on their distribution
    over processes.

    Args:
        examples: `prompt_ids` and `completion_ids` of all examples of one optimizer step, over all processes.

    Returns:
        Pairs (x_i, y_j) with x_i ≠ x_j: example i with the completion of example j. Empty if all prompts are the same.
    """
    keyed = sorted((_digest(e["prompt_ids"]), _digest(e["completion_ids"]), i) for i, e in enumerate(examples))
    prompts = [key[0] for key in keyed]
    shift = max((prompts.count(prompt) for prompt in set(prompts)), default=0)
    pairs = []
    for here, (prompt, _, i) in enumerate(keyed):
        other, _, j = keyed[(here + shift) % len(keyed)]
        if other != prompt:
            pairs.append({**examples[i], "completion_ids": examples[j]["completion_ids"]})
    return pairs
