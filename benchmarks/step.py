"""Compare time and memory of optimizer steps with TRL's own trainer: same model, pairs and seed, in one process.

    python -m benchmarks.step DATA [--model FOLDER] [--pairs 8] [--seeds 0,1,2]

DATA is any preference file or Hub name that `trl-ext run` reads. FOLDER is a model with its tokenizer, such as the one that
`make real-model` makes; without it, the model is a random Llama with a BPE vocabulary of 16,384 tokens trained on DATA. It is
loaded in 4 bits with LoRA on all linear layers. A step has `--pairs` pairs; every seed takes other pairs in another order. TRL
runs a step in micro-batches, as its users do; trl-ext takes it as one batch. TRL is measured in up to three ways, each better
for TRL than the one before: as it is; with the LM head on completion tokens only, as TRL does on a GPU but not on a CPU; and
also with the whole selection sorted by length, which TRL's DPO trainer cannot do.

Ratios, TRL ÷ ours, are printed. Every measurement is saved at once: a benchmark that was stopped continues where it stopped.
With FOLDER, TRL is measured at its default, which is gradient checkpointing; without it, a step may not fit in memory.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import trl
from rich.console import Console
from rich.table import Table

from benchmarks.measure import measure
from benchmarks.setting import make_model
from benchmarks.step_record import AS_IS, LAYERS, NARROW, WAYS, Record, spread, table
from benchmarks.step_variants import VARIANTS, Bench, Trainers
from trl_ext import data

RESULTS = Path(__file__).parent / "results"
SPARE = 2
"""Pairs are selected so many times over, as some have too long a prompt."""

REAL = (
    (f"TRL default, 8 pairs, {NARROW}", "packed, checkpointing", "packed"),
    (f"TRL default, 8 pairs, {AS_IS}",),
    tuple(name for n in LAYERS for name in (f"TRL, 8 pairs, {NARROW}, {n} layers", f"packed, {n} layers")),
    (f"TRL default, 4 pairs, {NARROW}", "cached"),
    (f"TRL KTO default, {NARROW}", "our KTO"),
)
"""What is measured on a given model, the most important first: each group for all seeds before the next group."""
RANDOM = (
    tuple(
        name for name in VARIANTS if "default, 4" not in name and "KTO default" not in name and "layers" not in name
    ),
)
"""What is measured on the random model."""


def plan(groups: tuple[tuple[str, ...], ...], seeds: list[int], rounds: int) -> Iterator[tuple[int, str, int]]:
    """Seed, variant and number of every step, in the order in which they are measured: TRL's and ours alternate.

    What takes long, TRL as it is and several losses, is measured for the first step of a seed only.
    """
    for group in groups:
        for seed in seeds:
            for number in range(rounds):
                for name in group:
                    if not (number and (name.endswith(AS_IS) or "losses" in name)):
                        yield seed, name, number


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument(
        "--model",
        type=lambda text: str(Path(text).expanduser()),
        help="folder of a model with its tokenizer (default: a random Llama)",
    )
    parser.add_argument("--pairs", type=int, default=8, help="pairs per optimizer step (default: %(default)s)")
    parser.add_argument("--seeds", type=numbers, help="selections of pairs (default: 0,1,2 with --model, otherwise 0)")
    parser.add_argument("--rounds", type=int, help="steps per seed (default: 1 with --model, otherwise 3)")
    parser.add_argument("--hidden", type=int, default=512, help="width of the random model (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="layers of the random model (default: %(default)s)")
    parser.add_argument("--max_length", type=int, help="tokens (default: 512 with --model, otherwise 1024)")
    parser.add_argument("--again", action="store_true", help="measure again what this machine has measured before")
    words = parser.parse_args(argv)
    if words.model is not None and not Path(words.model, "config.json").is_file():
        print(
            f"{words.model} holds no config.json. Name the folder of a model, such as the one that `make real-model` prints.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    run(words)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def run(words: argparse.Namespace) -> None:
    """Measure what the saved record lacks, and print the ratios."""
    is_real = words.model is not None
    seeds = words.seeds or ([0, 1, 2] if is_real else [0])
    rounds = words.rounds or (1 if is_real else 3)
    max_length = words.max_length or (512 if is_real else 1024)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    os.environ["TRL_EXT_CACHE"] = tempfile.mkdtemp()
    settings = {"pairs": words.pairs, "rounds": rounds, "max_length": max_length}
    if is_real:
        model = json.loads(Path(words.model, "config.json").read_text(encoding="utf-8"))
        settings |= {"model": Path(words.model).resolve().name, "layers": model.get("num_hidden_layers")}
    else:
        settings |= {"hidden": words.hidden, "layers": words.layers}
    record = Record(path_of(words.model), about(words.data, settings), words.again)
    todo = [step for step in plan(REAL if is_real else RANDOM, seeds, rounds) if not record.has(*step)]
    if todo:
        dataset = data.load(words.data).dataset
        folder = words.model or tempfile.mkdtemp()
        if not is_real:
            make_model(folder, dataset, words.hidden, words.layers)
        count = min(SPARE * words.pairs * rounds, len(dataset))
        selections = {seed: dataset.shuffle(seed=seed).select(range(count)) for seed in seeds}
        bench = Bench(Trainers(folder, selections[seeds[0]], words.pairs, max_length), selections, words.pairs, rounds)
        for seed in seeds:
            record.note_tokens(seed, bench.tokens(seed))
        for seed, name, number in todo:
            found = measure(bench.step(name, seed, number))
            record.add(seed, name, found)
            print(
                f"seed {seed}, step {number + 1}, {name}: {found['seconds']:.1f} s, {found['peak_bytes'] / 2**30:.2f} GiB"
            )
    show(table(record.content))
    print(f"saved in {record.path}" if todo else f"measured {record.content['date']}; `--again` measures again")


def path_of(model: str | None) -> Path:
    """Where the measurements of a model are kept."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return RESULTS / ("-".join(filter(None, ("step", model and Path(model).resolve().name, device))) + ".json")


def about(source: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the measurements were made on, and with."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "threads": torch.get_num_threads(),
        "versions": {module.__name__: module.__version__ for module in (torch, trl)},
        "data": Path(source).name,
        "settings": settings,
    }


def processor() -> str:
    """Name of the processor, and the number of its cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"CPU ({name}, {os.cpu_count()} cores)"


def show(ratios: dict[str, dict[str, list[float]]]) -> None:
    ways = [way for way in WAYS if any(way in found for found in ratios.values())]
    shown = Table("TRL ÷ ours", *(f"TRL {way}" for way in ways))
    for what, found in ratios.items():
        shown.add_row(what, *(spread(found[way]) if way in found else "" for way in ways))
    Console().print(shown)


if __name__ == "__main__":
    main()
