"""Compute something for many items in batches that fit into memory."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    items: Sequence[Item],
    limit: int,
    compute: Callable[[Sequence[Item]], Sequence[Result]],
    size: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Result]:
    """The result of each item, in their order; those of a batch as soon as it is computed.

    If memory runs out, the batch is computed again with half the limit, which then holds for the rest. Results that were
    given before are kept.

    Args:
        items: What to compute something for.
        limit: Largest size of a batch, which is the number of its items times the size of its largest. An item that alone is
            larger is a batch of its own.
        compute: Gives one result for each item of a batch.
        size: Of an item, such as its tokens (default: 1, so that `limit` is a number of items).
    """
    start = 0
    while start < len(items):
        batch = _next_batch(items[start:], limit, size)
        results = _attempt(compute, batch)
        if results is None:
            limit = len(batch) * max(map(size, batch)) // 2
            gc.collect()
            clear_device_cache()
            continue
        yield from results
        start += len(batch)


def _next_batch(items: Sequence[Item], limit: int, size: Callable[[Item], int]) -> Sequence[Item]:
    largest = 0
    for i, item in enumerate(items):
        largest = max(largest, size(item))
        if i and (i + 1) * largest > limit:
            return items[:i]
    return items


def _attempt(compute: Callable[[Sequence[Any]], Sequence[Any]], batch: Sequence[Any]) -> Sequence[Any] | None:
    """The results; `None` if memory ran out for more than one item. Returning releases the traceback and its tensors."""
    try:
        return compute(batch)
    except RuntimeError as error:
        if len(batch) == 1 or not should_reduce_batch_size(error):
            raise
        return None
