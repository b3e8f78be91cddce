"""Read the flags of the benchmarks of rollouts."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.rl.setting import VOCABULARY, vocabulary

OF_A_RANDOM_MODEL = ("hidden", "layers")


def parser(text: str, numbers: dict[str, tuple[int, str]]) -> argparse.ArgumentParser:
    """A parser with `--model`, `--again` and a flag for each number, with its default and its meaning."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--model",
        type=lambda given: str(Path(given).expanduser()),
        help="folder of a model with its tokenizer (default: a random Llama)",
    )
    for name, (default, what) in numbers.items():
        made.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    made.add_argument("--again", action="store_true", help="measure again what this machine has measured before")
    return made


def read(made: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The flags; on a CPU, torch then runs one thread. Exits with code 2 if the folder holds no model."""
    given = made.parse_args(argv)
    if given.model is not None and not Path(given.model, "config.json").is_file():
        print(
            f"{given.model} holds no config.json. Name the folder of a model, such as the one that `make real-model` prints.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    if device() == "cpu":
        torch.set_num_threads(1)
    return given


def settings_of(given: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
    """The name of a given model, and the settings to keep with the measurements."""
    settings = {name: value for name, value in vars(given).items() if name not in ("model", "again")}
    if given.model is None:
        return None, settings | {"vocabulary": VOCABULARY}
    name = Path(given.model).resolve().name
    settings = {key: value for key, value in settings.items() if key not in OF_A_RANDOM_MODEL}
    return name, settings | {"model": name, "vocabulary": vocabulary(given.model)}


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
