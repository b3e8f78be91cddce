"""Measure a training step of every shipped recipe on one NVIDIA GPU, limited to the memory of a 24 GB card.

    python -m benchmarks.gpu                                  measure everything, resuming where it stopped
    python -m benchmarks.gpu --minutes 10                     stop after 10 minutes
    python -m benchmarks.gpu --recipe zephyr-7b-dpo           one recipe
    python -m benchmarks.gpu --only step,trl --again          repeat some kinds of measurements
    python -m benchmarks.gpu --list                           list all measurements and which are done
    python -m benchmarks.gpu --small                          tiny models on a CPU, to test the benchmark itself

Nothing is downloaded: models have the real shapes and random weights, built directly in 4 bits, and data are random words
with the token lengths of real preference pairs. The allocator is limited to 22.5 GiB, so that a larger card gives the
result of a 24 GB card. Optimizers do not page their states, because paged memory would escape the limit. Each measurement
is written to benchmarks/results/gpu-CARD.json when it is finished. One that runs out of memory or fails is saved with the
reason and counts as finished. Required: a checkout, PyTorch, transformers, peft, trl, bitsandbytes and datasets.
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
from trl_ext.runs.libraries import expand_segments

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
}
"""Environment variables set before libraries are imported: no downloads, no progress output, and scaled-dot-product attention by
the flash kernels that a 24 GB card uses. On an H100 or H200, PyTorch prefers cuDNN's, which is compiled again for every length of
a row: TRL's padded rows, of many lengths, would take more time than on a 24 GB card."""


def main(arguments: list[str] | None = None) -> int:
    words = parse(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-data-") as folder:
        os.environ.update(ENVIRONMENT, HF_DATASETS_CACHE=folder)
        expand_segments()  # as in a run, for TRL's trainer, too
        return _main(words)


def _main(words: argparse.Namespace) -> int:
    started = time.monotonic()
    import torch

    if words.small and torch.cuda.is_available():
        return _refuse(
            "--small runs on a CPU only. Hide the GPU with `CUDA_VISIBLE_DEVICES= python -m benchmarks.gpu --small`."
        )
    if not (words.small or words.list or torch.cuda.is_available()):
        return _refuse("No NVIDIA GPU was found, so nothing can be measured. `--small` tests the benchmark on a CPU.")

    from benchmarks.gpu import card, cases, cells
    from benchmarks.gpu.deadline import within
    from benchmarks.gpu.store import Store

    if unknown := [name for name in words.recipe or () if name not in cases.names()]:
        return _refuse(f"Unknown recipe {', '.join(unknown)}. Choose from: {', '.join(cases.names())}.")
    wanted = cells.listed(words.recipe or cases.names(), words.only)
    if words.list:
        return _list(wanted, results.measured(words.output))
    if torch.cuda.is_available() and (sentence := card.hold()):
        print(sentence)
    store = Store(words.output, card.describe(), small=words.small)
    left = (words.minutes or 1e6) * 60 - (time.monotonic() - started)
    with within(max(left, 0.001)):
        rest = cells.measure(wanted, store, small=words.small, say=_say, again=words.again)
    _say(
        f"{store.file}"
        + (
            f": stopped after the time limit, {len(rest)} measurements are left"
            if rest
            else ": all measurements are done"
        )
    )
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", action="append", help="name of a recipe without .yaml; can be repeated")
    parser.add_argument(
        "--only",
        type=_kinds,
        default=results.KINDS,
        help=f"kinds of measurements, from {','.join(results.KINDS)} (default: all)",
    )
    parser.add_argument("--minutes", type=float, help="stop after this time; an unfinished measurement is discarded")
    parser.add_argument("--again", action="store_true", help="repeat finished measurements")
    parser.add_argument("--list", action="store_true", help="list all measurements and which are done")
    parser.add_argument(
        "--output", type=Path, default=results.FOLDER, help="folder for the results (default: benchmarks/results)"
    )
    parser.add_argument("--small", action="store_true", help="tiny models on a CPU, to test the benchmark itself")
    return parser.parse_args(arguments)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in results.KINDS]:
        raise argparse.ArgumentTypeError(f"unknown kind {', '.join(unknown)}; choose from {', '.join(results.KINDS)}")
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
