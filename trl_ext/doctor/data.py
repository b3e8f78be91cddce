"""Check the recipe's data on this computer by opening it as a run does. Uses no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trl_ext.demo import EMBEDDED
from trl_ext.doctor.finding import Finding, fails, passed, warns
from trl_ext.support import counts
from trl_ext.support.errors import UserError

FIRST = 1000
"""Rows that are recognized and converted; every row is read."""


def on_this_computer(recipe: Any) -> Iterator[Finding]:
    """Check that a file or folder can be read to its end and that its rows can be used."""
    from datasets import Dataset

    from trl_ext.build import dataset
    from trl_ext.data import hub

    name = recipe.get("dataset_name")
    if recipe.get("datasets"):
        return
    if name != EMBEDDED and not Path(name).expanduser().exists():
        if hub.is_cached(name):
            yield passed("data", f"{name} is in the Hub cache")
        else:
            yield warns("data", f"{name} is not in the Hub cache", "The first run downloads it.")
        return
    # `eval_size` needs the number of rows, which is unknown here.
    values = {key: value for key, value in recipe.values.items() if key != "eval_size"}
    looked_at = dataclasses.replace(recipe, values=values, precedes_apply_chat_template=True)  # needs no tokenizer
    strategy = "no" if recipe.get("eval_size") else recipe.effective("eval_strategy")
    args = SimpleNamespace(eval_strategy=strategy, eval_on_start=False)
    try:
        rows = dataset.source(looked_at).rows
        report = dataset.read(looked_at, args, [], FIRST).report
    except UserError as error:
        yield fails("data", str(error), f"Fix the data, then check it with `trl-ext data {recipe.word}`.")
        return
    count = counts.count(len(rows), "rows") if isinstance(rows, Dataset) else "a stream"
    yield passed("data", f"{name}: {count}, {getattr(report, 'title', None) or report.what}")
