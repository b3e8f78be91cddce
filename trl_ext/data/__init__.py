"""Load preference data: recognise its format, convert it to TRL's dataset types, check it and report on it.

    dataset, report = data.load("pairs.jsonl")   # also a name on the Hub, CSV, Parquet, a folder, or a dataset in memory
    print(report)                                # the format, and how many rows were dropped and why
    dataset, report = data.unpair(loaded)        # pairs as labelled completions, for losses such as KTO

In the order in which data passes through them:

- ``sources`` opens data anywhere, ``local`` files and folders, ``split_loading`` one split with `datasets`; ``hub`` explains errors of the
  Hub, ``files/`` those of files;
- ``sampling`` samples rows, ``formats/`` recognises and reads them in plain Python, ``label_verdicts`` reads all labels;
  ``renaming`` gives columns the names known here (``column_names``, ``column_paths``); ``column_errors`` explains columns that are not
  recognised, with ``column_suggestions``, ``data_shape`` and ``content``; ``recognise_file`` does all this for
  `trl-ext validate`, without importing `datasets`;
- ``convert`` converts all rows to the types in ``trl_columns``, with ``cache_keys`` for its cache and ``row_stats`` for its counts;
- ``report`` holds the result, ``checks`` refuses data that teaches nothing;
- ``loader`` puts these together; ``unpairing`` splits pairs into labelled completions; ``plain_data`` loads ``prompts`` and
  ``demonstrations``, whose messages ``conversations`` reads, ``unlabelled`` those of other formats; they report in ``plain_report``;
- ``holdout`` splits off evaluation rows, ``overlap`` counts those that are trained on (both by ``row_hashes``), ``row_kinds`` recognises
  every row on its own, ``excerpt`` shows one.

Importing the package imports nothing heavy.
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
