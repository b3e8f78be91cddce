"""Train a real chat model with every method, and measure what it learnt and what it cost.

    python -m benchmarks.real DATA [--runs DIR] [--cells dpo 'hh-*'] [--jobs 2]

DATA is real preference data, for example Anthropic's HH harmless-base. Cells are trained as users train, with `trl-ext run` and the
recipes recipes/smollm2-135m-*.yaml. A finished cell is saved at once and not run again; an interrupted run is resumed. To repeat
a cell, delete its result in benchmarks/results/real and its run. `make docs` writes docs/real.md from the results. On two CPU
cores all cells together take hours.
"""

import argparse
import fnmatch
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.real import cells, model, pairs


def prepare(data: str, place: cells.Place) -> None:
    """Make the model's folder, sample the pairs and select the preferences, unless they are there."""
    if not model.is_complete(model.folder()):
        model.make(model.folder())
    if not pairs.FILE.exists():
        pairs.write(pairs.FILE)
    if not all(file.exists() for file in place.preferences):
        from benchmarks.real import preferences  # loads heavy packages

        preferences.write(data, place.runs)


def complete(cell: cells.Cell, place: cells.Place) -> bool:
    """Complete a cell and say so; return whether it succeeded."""
    started = time.monotonic()
    try:
        cells.complete(cell, place)
    except cells.Failed as error:
        print(error, file=sys.stderr, flush=True)
        return False
    print(f"{cell.name}: {(time.monotonic() - started) / 60:.0f} min", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="preference file or Hub name")
    parser.add_argument("--runs", type=Path, default=Path("runs/real"), help="folder of the runs (default: runs/real)")
    parser.add_argument("--cells", nargs="*", default=["*"], help="patterns of cells to run (default: all)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="cells run at a time, on one thread each (default: one per core)",
    )
    words = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // words.jobs)))
    place = cells.Place(words.runs)
    place.runs.mkdir(parents=True, exist_ok=True)
    prepare(words.data, place)
    chosen = [
        cell
        for cell in cells.CELLS
        if not cell.result.exists() and any(fnmatch.fnmatch(cell.name, each) for each in words.cells)
    ]
    with ThreadPoolExecutor(words.jobs) as pool:
        running = [pool.submit(complete, cell, place) for cell in chosen]
        try:
            return 0 if all([each.result() for each in running]) else 1
        except KeyboardInterrupt:  # the commands were interrupted, too, and write their checkpoints
            pool.shutdown(cancel_futures=True)
            print("Interrupted. The same command continues.", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main())
