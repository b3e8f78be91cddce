"""Choose which completions of a prompt are compared: the best and the worst, or every two whose scores differ enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BEST_WORST, ALL = HOW = ("best_worst", "all")
"""Values of the setting `dataset_pairs`."""


@dataclass(frozen=True)
class Pairing:
    """How scored completions become pairs.

    Attributes:
        how: `dataset_pairs`. "best_worst": one pair, the first completion with the highest score and the last one with the
            lowest. "all": every two completions.
        margin: `dataset_pair_margin`, in the unit of the scores. The scores of a pair differ by more than this, so that equal
            scores never make a pair.
    """

    how: str = BEST_WORST
    margin: float = 0.0

    @property
    def is_default(self) -> bool:
        return self == DEFAULT

    @property
    def settings(self) -> str:
        """The settings that differ from their defaults, as in a recipe."""
        parts = [f"`dataset_pairs: {self.how}`"] if self.how != BEST_WORST else []
        parts += [f"`dataset_pair_margin: {self.margin:g}`"] if self.margin else []
        return " and ".join(parts)

    def pairs(self, scores: Sequence[float]) -> tuple[list[tuple[int, int]], int]:
        """((better, worse), …) as positions in `scores`, and the number of pairs left out because their scores are too close."""
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        if self.how == ALL:
            every = [(better, worse) for n, better in enumerate(order) for worse in order[n + 1 :]]
        else:
            every = [(order[0], order[-1])]
        kept = [(better, worse) for better, worse in every if scores[better] - scores[worse] > self.margin]
        return kept, len(every) - len(kept)


DEFAULT = Pairing()
