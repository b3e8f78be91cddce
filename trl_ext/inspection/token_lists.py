"""Read a column of token lists from Arrow without converting it to Python objects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow


class TokenLists:
    """A column of lists of token ids."""

    def __init__(self, column: pyarrow.ChunkedArray) -> None:
        array = column.combine_chunks()
        self.values = array.values.to_numpy(zero_copy_only=False)
        self.offsets = array.offsets.to_numpy().astype(np.int64)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every list, as a view."""
        for start, stop in pairwise(self.offsets.tolist()):
            yield self.values[start:stop]

    def last(self, tokens: set[int]) -> np.ndarray:
        """The last position of one of `tokens` in each list; −1 where none occurs."""
        places = np.flatnonzero(np.isin(self.values, list(tokens)))
        found = np.searchsorted(places, self.offsets[1:]) - 1
        place = np.where(found >= 0, places[found], -1) if len(places) else np.full(len(found), -1)
        return np.where(place >= self.offsets[:-1], place - self.offsets[:-1], -1)
