"""Compute something for many items in batches that fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from trl_ext.support.free_memory import release
from trl_ext.support.memory_errors import is_out_of_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    items: Sequence[Item],
    limit: int,
    compute: Callable[[Sequence[Item]], Sequence[Result]],
    size: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Result]:
    """The result of each item, in their order; those of a batch as soon as it is computed.

    If memory runs out, cached memory is freed, and the batch is computed again as it was. If memory runs out again, half the
    limit holds for this batch and the rest. Results that were given before are kept.

    Args:
        items: What to compute something for.
        limit: Largest size of a batch, which is the number of its items times the size of its largest. An item that alone is
            larger is a batch of its own.
        compute: Gives one result for each item of a batch.
        size: Of an item, such as its tokens (default: 1, so that `limit` is a number of items).
    """
    start, was_repeated = 0, False
    while start < len(items):
        batch = _next_batch(items[start:], limit, size)
        results = _attempt(compute, batch, is_last=was_repeated and len(batch) == 1)
        if results is not None:
            yield from results
            start += len(batch)
            continue
        release()  # after the attempt has returned: its traceback keeps tensors alive
        if was_repeated:
            limit = len(batch) * max(map(size, batch)) // 2
        was_repeated = True


def _next_batch(items: Sequence[Item], limit: int, size: Callable[[Item], int]) -> Sequence[Item]:
    largest = 0
    for i, item in enumerate(items):
        largest = max(largest, size(item))
        if i and (i + 1) * largest > limit:
            return items[:i]
    return items


def _attempt(compute: Callable, batch: Sequence[Any], is_last: bool) -> Sequence[Any] | None:
    """The results; `None` if memory ran out, except in the last attempt."""
    try:
        return compute(batch)
    except Exception as error:
        if is_last or not is_out_of_memory(error):
            raise
        return None
