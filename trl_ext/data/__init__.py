"""Preference data: load, recognise, convert to TRL's dataset types, check, report.

    dataset, report = data.load("pairs.jsonl")   # also a Hub name, CSV, Parquet, a directory, or a dataset
    print(report)                                # what was recognised, what was dropped and why, in counts
    dataset, report = data.unpair(loaded)        # pairs as single answers, for losses such as KTO

Files: ``sources`` opens (``separators`` tells what lies around rows, ``hub``, ``unreadable`` explain failures), ``formats/`` recognises and reads rows
in plain Python, ``sampling`` looks at some and ``normalise`` converts all to the types in ``columns``;
``row_stats`` counts, ``report`` says it, ``checks`` refuses, ``hints`` helps with unknown columns, ``unpairing``
makes single answers of pairs; ``prompts_and_demos`` reads prompts and demonstrations, for PPO and SFT; ``classes`` tells what
each row of a mixed file is. Importing the package imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "load": "loader",
    "describe": "loader",
    "splits": "sources",
    "unpair": "unpairing",
    "require_teachable": "checks",
    "Loaded": "report",
    "Report": "report",
    "FORMATS": "formats",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_HOME[name]}", __name__)
    return module.CHOICES if name == "FORMATS" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
