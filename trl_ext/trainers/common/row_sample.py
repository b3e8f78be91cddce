"""Make the rows on which memory is measured."""

from typing import Any

import torch

from trl_ext.batching.packed import Tree, pack
from trl_ext.batching.padded import padded_batch

SAMPLE_TOKENS = 256
"""Tokens of the shorter row: enough for a good average, few enough to fit on any GPU."""


def make(tree: Tree, is_packed: bool, device: torch.device, times: int) -> tuple[dict[str, Any], int]:
    """Make a row of copies of one prompt with its completions, `times` as long as the shortest.

    Args:
        tree: The prompt and its completions; long ones are cut.
        is_packed: Whether rows are packed.
        device: Where the row runs.
        times: 1 or 2.

    Returns:
        A batch for `forward.run`, and its number of tokens, padding included.
    """
    tree = Tree(tree.prompt[-SAMPLE_TOKENS // 2 :], [c[: SAMPLE_TOKENS // 4] for c in tree.completions])
    repeats = max(SAMPLE_TOKENS // max(tree.tokens, 1), 1) * times
    if is_packed:
        row = pack([tree] * repeats)
        return {"packed": row.to(device)}, row.input_ids.numel()
    one = padded_batch([tree], pad_token_id=0)  # any id: padding is masked
    batch = {name: ids.repeat(repeats, 1).to(device) for name, ids in one.items()}
    return batch, batch["input_ids"].numel()
