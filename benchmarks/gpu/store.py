"""Keep results on disk: each cell is saved when it is finished and not measured again."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import results
from benchmarks.gpu.results import Card, Results
from trl_ext.support.atomic import write_json

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets", "triton")
ROOT = Path(__file__).parents[2]


class Store:
    """The results file of a card.

    Args:
        folder: Folder of the file.
        card: Description for a new file. An existing file keeps its own, so that all shares refer to one rate.
        small: Whether the results are of tiny models.
    """

    def __init__(self, folder: Path, card: Card, *, small: bool) -> None:
        self.file = results.path(card["name"], folder, small=small)
        new: Results = {"card": card, "versions": versions(), "date": now(), "small": small, "cells": {}}
        self.results = results.read(self.file) or new

    @property
    def rate(self) -> float:
        """The card's rate of matrix products, TFLOP/s."""
        return self.results["card"]["bf16_tflops_measured"]

    def cell(self, name: str, kind: str) -> dict[str, Any] | None:
        """A finished or failed cell; `None` if it was not measured."""
        return self.results["cells"].get(name, {}).get(kind)

    def put(self, name: str, kind: str, cell: dict[str, Any]) -> None:
        """Save a cell, replacing an earlier one."""
        about = {"date": now(), "commit": commit(), "fits": True, "why": None}
        self.results["cells"].setdefault(name, {})[kind] = about | cell
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.results)


def versions() -> dict[str, str]:
    """Versions of the relevant packages and of CUDA."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The commit of this checkout, with a + if files differ from it; `None` without git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
