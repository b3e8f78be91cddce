"""Suggest a `dataset_columns` mapping from the names of a dataset's columns."""

from __future__ import annotations

SHAPES = (
    ("prompt", "chosen", "rejected"),
    ("prompt", "completion", "label"),
    ("prompt", "response_a", "response_b", "winner"),
    ("prompt", "response_a", "response_b", "score_a", "score_b"),
)
"""Sets of columns that are enough."""

GUESSES = {
    "prompt": ("question", "instruction", "query", "input", "context", "user", "problem", "post", "source"),
    "chosen": (
        "good",
        "better",
        "preferred",
        "accepted",
        "winner",
        "best",
        "positive",
        "pos",
        "win",
        "response_w",
    ),
    "rejected": (
        "bad",
        "worse",
        "dispreferred",
        "declined",
        "loser",
        "worst",
        "negative",
        "neg",
        "lose",
        "response_l",
    ),
    "completion": ("response", "answer", "output", "reply", "text", "generation"),
    "label": (
        "liked",
        "is_good",
        "desirable",
        "verdict",
        "feedback",
        "thumbs",
        "preference",
        "rating",
        "score",
    ),
    "response_a": ("resp_a", "answer_a", "option_a", "candidate_a", "human_ref_a"),
    "response_b": ("resp_b", "answer_b", "option_b", "candidate_b", "human_ref_b"),
    "winner": ("preference", "preferred", "better", "choice", "verdict"),
    "score_a": ("rating_a", "reward_a"),
    "score_b": ("rating_b", "reward_b"),
}
"""Names in published datasets. They only fill in a suggestion that the user confirms."""


def suggested_lines(columns: tuple[str, ...]) -> str:
    """The `dataset_columns:` lines to add to a recipe, filled in as far as the columns' names tell."""
    lines = [f"  {place}: {column or '<its column>'}" for place, column in best_mapping(columns).items()]
    return "\n".join(["dataset_columns:", *lines])


def best_mapping(columns: tuple[str, ...]) -> dict[str, str | None]:
    """{name known here: column of the dataset, if one fits}, for the shape that has the most columns."""
    return max((_guess(places, columns) for places in SHAPES), key=_known)


def _known(mapping: dict[str, str | None]) -> int:
    return sum(column is not None for column in mapping.values())


def _guess(places: tuple[str, ...], columns: tuple[str, ...]) -> dict[str, str | None]:
    free = list(columns)
    result: dict[str, str | None] = {}
    for place in places:
        names = (place, *GUESSES[place])
        exact = [c for name in names for c in free if c.lower() == name]
        partly = [c for name in names if len(name) > 3 for c in free if name in c.lower()]
        result[place] = next(iter(exact + partly), None)
        if result[place] is not None:
            free.remove(result[place])
    return result
