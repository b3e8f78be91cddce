"""Refuse data without a row before weights are loaded."""

from collections.abc import Sized
from typing import Any


def refuse(**datasets: Any) -> None:
    """ValueError if one of the given datasets has no row. Of a stream, the first row is read.

    Args:
        datasets: By the name of the argument; `None` if it was not given. An evaluation set may be a dictionary of datasets.
    """
    for name, given in datasets.items():
        for key, dataset in given.items() if isinstance(given, dict) else [(None, given)]:
            if dataset is not None and _is_empty(dataset):
                place = name if key is None else f"{name}[{key!r}]"
                remedy = (
                    "Give a dataset with rows"
                    if name == "train_dataset"
                    else "Give a dataset with rows, or leave it out"
                )
                raise ValueError(
                    f"`{place}` has no rows. {remedy}. If rows were filtered out before, look at the filter."
                )


def _is_empty(dataset: Any) -> bool:
    if isinstance(dataset, Sized):
        return len(dataset) == 0
    return next(iter(dataset), None) is None
