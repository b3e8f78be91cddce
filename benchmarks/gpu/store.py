"""Results on disk: what is measured is kept at once, whole, and not measured again."""

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
        folder: Where it is, or will be.
        card: Kept in a new file; an older file keeps its own, so that all its shares are of one rate.
        small: Of tiny models.
    """

    def __init__(self, folder: Path, card: Card, *, small: bool) -> None:
        self.file = results.path(card["name"], folder, small=small)
        new: Results = {"card": card, "versions": versions(), "date": now(), "small": small, "cells": {}}
        self.results = results.read(self.file) or new

    @property
    def rate(self) -> float:
        """Of the card's matrix products, TFLOP/s."""
        return self.results["card"]["bf16_tflops_measured"]

    def cell(self, name: str, kind: str) -> dict[str, Any] | None:
        """A cell, if it was measured or failed."""
        return self.results["cells"].get(name, {}).get(kind)

    def put(self, name: str, kind: str, cell: dict[str, Any]) -> None:
        """Keep a cell, over one of before."""
        about = {"date": now(), "commit": commit(), "fits": True, "why": None}
        self.results["cells"].setdefault(name, {})[kind] = about | cell
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.results)


def versions() -> dict[str, str]:
    """Of the packages that matter, and of CUDA."""
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
    """The commit of this checkout, with a + where files differ from it; `None` where git cannot tell."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
