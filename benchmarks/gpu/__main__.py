"""Every shipped recipe's training step on one NVIDIA GPU, held to the memory of a 24 GB card.

    python -m benchmarks.gpu                                  everything; goes on where it stopped
    python -m benchmarks.gpu --minutes 10                     no longer than that
    python -m benchmarks.gpu --recipe zephyr-7b-dpo           one recipe
    python -m benchmarks.gpu --only step,trl --again          some kinds of cells, measured anew
    python -m benchmarks.gpu --list                           what there is, and what is measured
    python -m benchmarks.gpu --small                          tiny models on a CPU: whether it runs at all

No network and no weights: models of the real shapes are built from random numbers, directly in 4 bits, and data are
random words with the lengths of real preference pairs. The allocator is capped at 22.5 GiB, so that a larger card stands
in for one of 24 GB. Each cell is written to benchmarks/results/gpu-CARD.json as soon as it is finished; one that runs out
of memory or fails is kept with the sentence that says so, and counts as finished. Needs no more than a checkout, PyTorch,
transformers, peft, trl, bitsandbytes and datasets.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks.gpu import results

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Of the libraries, set before they are imported: nothing is fetched, and what they print is not of interest."""


def main(arguments: list[str] | None = None) -> int:
    words = parse(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-data-") as folder:
        os.environ.update(ENVIRONMENT, HF_DATASETS_CACHE=folder)
        return _main(words)


def _main(words: argparse.Namespace) -> int:
    started = time.monotonic()
    import torch

    if words.small and torch.cuda.is_available():
        return _refuse("--small is for machines without a GPU; hide this one with CUDA_VISIBLE_DEVICES= to use it.")
    if not (words.small or words.list or torch.cuda.is_available()):
        return _refuse(
            "No NVIDIA GPU is here, so there is nothing to measure; --small tries the benchmark out on a CPU."
        )

    from benchmarks.gpu import card, cases, cells
    from benchmarks.gpu.deadline import within
    from benchmarks.gpu.store import Store

    if unknown := [name for name in words.recipe or () if name not in cases.names()]:
        return _refuse(f"There is no recipe {', '.join(unknown)} here: {', '.join(cases.names())}.")
    wanted = cells.listed(words.recipe or cases.names(), words.only)
    if words.list:
        return _list(wanted, results.measured(words.output))
    if torch.cuda.is_available() and (sentence := card.hold()):
        print(sentence)
    store = Store(words.output, card.describe(), small=words.small)
    left = (words.minutes or 1e6) * 60 - (time.monotonic() - started)
    with within(max(left, 0.001)):
        rest = cells.measure(wanted, store, small=words.small, say=_say, again=words.again)
    _say(f"{store.file}" + (f"; time is up, {len(rest)} cells are left" if rest else "; nothing is left"))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", action="append", help="name of a recipe without its ending; may be repeated")
    parser.add_argument("--only", type=_kinds, default=results.KINDS, help=f"of {','.join(results.KINDS)}")
    parser.add_argument("--minutes", type=float, help="stop after so many; a cell that is not finished is not kept")
    parser.add_argument("--again", action="store_true", help="measure what is measured already, too")
    parser.add_argument("--list", action="store_true", help="say what there is to measure and what is measured")
    parser.add_argument("--output", type=Path, default=results.FOLDER, help="folder of the results")
    parser.add_argument("--small", action="store_true", help="tiny models, on a CPU")
    return parser.parse_args(arguments)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in results.KINDS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: give some of {', '.join(results.KINDS)}")
    return kinds


def _list(wanted: list, found: list[results.Results]) -> int:
    for name, kind in wanted:
        cells = {one["card"]["name"]: one["cells"].get(name, {}).get(kind) for one in found}
        known = [f"{card}: {cell['why'] or cell['date']}" for card, cell in cells.items() if cell is not None]
        _say(f"{name:24} {kind:16} {'; '.join(known)}".rstrip())
    return 0


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
