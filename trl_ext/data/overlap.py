"""Count the evaluation rows that are trained on as well."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from datasets import Dataset

from trl_ext.data.row_hashes import hashes


class Overlap(NamedTuple):
    """Evaluation rows that are trained on.

    Attributes:
        rows: Rows that are also in the training data, unchanged.
        prompts: Other rows whose prompt is in the training data.
    """

    rows: int
    prompts: int


def overlap(train: Dataset, evaluation: Dataset) -> Overlap:
    """Compare two datasets row by row. Data with images is not compared."""
    shared = [name for name in train.column_names if name in evaluation.column_names]
    if not shared or {"images", "image"} & {*train.column_names, *evaluation.column_names}:
        return Overlap(0, 0)
    has_prompt = np.zeros(len(evaluation), dtype=bool)
    if "prompt" in shared:
        trained, evaluated = hashes(train, ["prompt"]), hashes(evaluation, ["prompt"])
        has_prompt, train = np.isin(evaluated, trained), train.select(np.flatnonzero(np.isin(trained, evaluated)))
    is_same = np.isin(hashes(evaluation, shared), hashes(train, shared)) & (
        completions(train) == completions(evaluation)
    )
    return Overlap(int(is_same.sum()), int((has_prompt & ~is_same).sum()))


def completions(dataset: Dataset) -> set[str]:
    """Names of the columns with completions."""
    return {"chosen", "rejected", "completion"} & set(dataset.column_names)
