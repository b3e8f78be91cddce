"""List the measurements in order, and run them; a failure ends only its own measurement."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu import (
    against_trl,
    card,
    cases,
    deadline,
    packed_vs_padded,
    profiling,
    results,
    rollout,
    row_tokens,
    step,
)
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.deadline import OutOfTime
from benchmarks.gpu.store import Store
from trl_ext.support.errors import UserError
from trl_ext.support.free_memory import release
from trl_ext.support.memory_errors import is_out_of_memory

MEASURES = {
    "step": step.measure,
    "rollout": rollout.measure,
    "trl": against_trl.measure,
    "row_tokens": row_tokens.measure,
    "packed_vs_padded": packed_vs_padded.measure,
    "profile": profiling.measure,
}


class Name(NamedTuple):
    """Name of a cell: its case and its kind."""

    case: str
    kind: str


def listed(names: Sequence[str], kinds: Sequence[str] = results.KINDS) -> list[Name]:
    """The cells of some cases and kinds: first the first cell of every case, then the others case by case."""
    found = [
        (number > 0, order, results.KINDS.index(kind), Name(name, kind))
        for order, name in enumerate(names)
        for number, kind in enumerate(cases.get(name).kinds)
        if kind in kinds
    ]
    return [name for *_, name in sorted(found)]


def measure(
    wanted: Sequence[Name], store: Store, *, small: bool, say: Callable[[str], None], again: bool = False
) -> list[Name]:
    """Measure cells that are not in the store, until the time limit.

    Args:
        wanted: The cells, in this order.
        store: Each cell is saved to it when finished.
        small: Whether to use tiny models.
        say: Prints a line.
        again: Whether to repeat cells that are in the store.

    Returns:
        The remaining cells.
    """
    left = [name for name in wanted if again or store.cell(*name) is None]
    try:
        while left:
            with _bench(left[0].case, small) as bench:
                cell = one(bench, left[0], store.rate, say)
            store.put(*left.pop(0), cell)
    except OutOfTime:
        deadline.heard()
    forget()
    return left


_kept: dict[str, Any] = {}  # the bench of the last cell, whose model the next cell may use


@contextmanager
def _bench(name: str, small: bool) -> Iterator[Bench]:
    if _kept.get("key") != (name, small):
        forget()
        place = tempfile.TemporaryDirectory(prefix="bench-gpu-")
        bench = Bench(cases.get(name, small=small), Path(place.name), card.device())
        _kept.update(key=(name, small), place=place, bench=bench)
    try:
        yield _kept["bench"]
    except BaseException:
        forget()
        raise


def forget() -> None:
    """Free the model of the last cell."""
    if "place" in _kept:
        _kept.pop("bench")
        _kept.pop("place").cleanup()
        _kept.clear()
    release()


def one(bench: Bench, name: Name, rate: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure one cell. If that fails, the cell contains the reason."""
    started = time.perf_counter()
    try:
        cell = MEASURES[name.kind](bench, rate)
    except Exception as error:
        sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
        is_memory = is_out_of_memory(error) or (isinstance(error, UserError) and "Out of memory" in sentence)
        if not is_memory:
            traceback.print_exc()
        why = sentence if is_memory else f"{type(error).__name__}: {sentence}"
        cell = {"fits": False if is_memory else None, "why": why}
    if cell.get("fits", True) is not True:
        bench.base.model = None  # the next cell builds it again, so that a failure leaves nothing behind
    release()  # outside the handler: its traceback keeps the failed step alive
    say(f"{name.case:24} {name.kind:16} {time.perf_counter() - started:6.0f} s  {cell.get('why') or 'done'}")
    return cell
