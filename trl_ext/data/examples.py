"""Hold the examples a trainer learns from, with what was found while they were read."""

from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext.data.thoughts import ALL


class Examples(NamedTuple):
    """Examples to train and to evaluate on.

    Attributes:
        train: Examples to train on, as the trainer takes them.
        evaluation: The same to evaluate on, or `None` where no evaluation is asked for.
        report: What was found while the training data was read.
        numbers: The row of the source, counted from 0, that each training example comes from; `None` for a stream.
        thoughts: The value of the recipe's setting `thoughts`.
    """

    train: Dataset | IterableDataset
    evaluation: Dataset | IterableDataset | None
    report: Any
    numbers: np.ndarray | None
    thoughts: str = ALL
