"""Pack collated pairs with images: the prompt of a pair, with its images, lies in the row once.

TRL's collator repeats every prompt and its images for the rejected completion. Here the row is laid out from the places of the
collated tokens, so that whatever belongs to a token, such as its position beside an image, is read at its place.
"""

import inspect
from typing import Any

import torch

from trl_ext.batching.packed import PackedRow, Tree, pack

TOKENS = ("input_ids", "attention_mask", "completion_mask", "token_type_ids", "mm_token_type_ids")
"""Tensors of the collator with one value per token, (2B, T). All others describe images, in the order of the prompts."""
TYPES = TOKENS[3:]
"""Those that models read in padded rows: `SegmentMask` evaluates their masks in these rows."""
OWN = ("packed", "source", "positions", "num_tokens")
"""Entries that are added to a collated batch."""


def pack_pairs(batch: dict[str, Any]) -> dict[str, Any] | None:
    """Pack the output of TRL's collator of pairs with images.

    Returns:
        The batch with the images of each prompt once, and with `packed`, a `PackedRow` whose completions are all chosen, then all
        rejected; `source`, the place of its tokens in the flattened tokens of the collator, (T,); and `num_tokens`.
        `None` if the images of the chosen completions are not those of the rejected ones.
    """
    images = {}
    for name in batch.keys() - set(TOKENS):
        halves = _halves(batch[name])
        if halves is None:
            return None
        images[name] = halves
    row, source = _laid_out(batch)
    tokens = {name: batch[name] for name in TOKENS if name in batch}
    return {**tokens, **images, "packed": row, "source": source, "num_tokens": batch["attention_mask"].sum().item()}


def unpacked(batch: dict[str, Any]) -> dict[str, Any]:
    """The collator's output again: images are repeated for the rejected completions. Other batches are returned as they are."""
    if "packed" not in batch:
        return batch
    kept = {name: value for name, value in batch.items() if name not in OWN}
    return {name: value if name in TOKENS else _twice(value) for name, value in kept.items()}


def for_the_model(batch: dict[str, Any]) -> dict[str, Any]:
    """What a model is given for a packed batch besides the tokens of the row."""
    given = {name: value for name, value in batch.items() if name not in OWN and (name not in TOKENS or name in TYPES)}
    return given | ({"position_ids": batch["positions"]} if "positions" in batch else {})


def own_positions(backbone: Any, batch: dict[str, Any]) -> torch.Tensor | None:
    """Positions of a packed row's tokens in models that place image tokens on a grid, (3, 1, T); `None` for other models.

    Args:
        backbone: The model without its LM head.
        batch: Of `pack_pairs`.
    """
    compute = getattr(backbone, "compute_3d_position_ids", None)
    if compute is None:
        return None
    padded = unpacked(batch)
    positions = compute(**{name: padded.get(name) for name in inspect.signature(compute).parameters})
    return None if positions is None else positions.flatten(1)[:, batch["source"]][:, None]


def _laid_out(batch: dict[str, Any]) -> tuple[PackedRow, torch.Tensor]:
    ids, scored = batch["input_ids"], batch["completion_mask"].bool()
    attended = batch["attention_mask"].bool()
    count, width = len(ids) // 2, ids.size(1)
    number = torch.arange(ids.numel()).view_as(ids)

    def places(row: int, is_completion: bool) -> list[int]:
        chosen = attended[row] & (scored[row] if is_completion else ~scored[row])
        return number[row][chosen].tolist()

    trees = [Tree(places(i, False), [places(i, True), places(i + count, True)]) for i in range(count)]
    row = pack(trees)  # of places instead of tokens
    at = row.input_ids[0]
    row.layout.rows = (at[[segment.start for segment in row.layout.segments]] // width).tolist()
    row.labels = torch.where(row.labels < 0, row.labels, ids.flatten()[row.labels.clamp(min=0)])
    row.input_ids = ids.flatten()[at][None]
    row.completions = row.completions.view(count, 2).T.flatten()
    return row, at


def _halves(value: Any) -> Any:
    """The first half of a tensor or list, if the second is the same; `None` otherwise."""
    half = len(value) // 2
    first, second = value[:half], value[half:]
    return first if len(first) == len(second) and all(map(torch.equal, first, second)) else None


def _twice(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, torch.Tensor) else [*value, *value]
