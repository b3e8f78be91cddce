"""Read the token ids of a rollout's completions from its padded tensors."""

from typing import Any

import torch
from torch import Tensor

from trl_ext.batching.packed import Tree, join


def trees(batch: dict[str, Any]) -> list[Tree]:
    """Each row of a batch: its prompt with its completion, or with the two completions of a pair.

    Args:
        batch: `prompt_ids`, `prompt_mask` (B, P); `completion_ids`, `completion_mask` (B, C), or (B, 2, C) for pairs.
    """
    completions = batch["completion_ids"]
    prompts = _unpadded(batch["prompt_ids"], batch["prompt_mask"])
    several = _unpadded(completions.flatten(0, -2), batch["completion_mask"].flatten(0, -2))
    each = len(several) // max(len(prompts), 1)
    return [Tree(prompt, several[each * i : each * (i + 1)]) for i, prompt in enumerate(prompts)]


def from_sequences(input_ids: Tensor, attention_mask: Tensor, completion_length: int) -> list[Tree]:
    """The same from whole sequences (B, P + C), of which the last `completion_length` tokens are completions."""
    prompt_length = input_ids.size(1) - completion_length
    prompt_ids, completion_ids = input_ids.tensor_split([prompt_length], dim=1)
    prompt_mask, completion_mask = attention_mask.tensor_split([prompt_length], dim=1)
    fields = {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask}
    return trees(fields | {"completion_ids": completion_ids, "completion_mask": completion_mask})


def comparable(rows: list[Tree], most: int = 4) -> list[Tree]:
    """Prompts with at least two completions, by which packed rows are compared with padded ones.

    Args:
        rows: Rows of a batch.
        most: Completions of a prompt that are kept.
    """
    joined = [Tree(tree.prompt, [c for c in tree.completions if c][:most]) for tree in join(rows)[0]]
    groups = [tree for tree in joined if len(tree.completions) > 1]
    if groups:
        return groups
    # A single completion per prompt, or none that counts: the tokens of other completions and prompts do as well.
    found = [tree.completions[0] for tree in joined if tree.completions]
    found += [tree.prompt for tree in joined] + [tree.prompt[-1:] * 2 for tree in joined]
    for tree in joined:
        others = [list(c) for c in dict.fromkeys(map(tuple, found)) if list(c) not in tree.completions]
        tree.completions.extend(others[: 2 - len(tree.completions)])
    return joined


def _unpadded(ids: Tensor, mask: Tensor) -> list[list[int]]:
    if not ids.numel():
        return [[] for _ in range(len(ids))]
    values, counts = torch.stack([ids, mask.to(ids.dtype)]).cpu().numpy()
    return [row[kept > 0].tolist() for row, kept in zip(values, counts, strict=True)]
