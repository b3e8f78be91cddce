"""Suggest a `dataset_columns` mapping from the names of columns and what they hold. A suggestion is tried before it is made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from trl_ext.data.column_names import known_names, spelled_plainly
from trl_ext.data.column_paths import follow, parse
from trl_ext.data.content import are_numbers, are_scores, are_two_classes, is_prose
from trl_ext.data.formats import Match, Row, Sample, compared, recognise
from trl_ext.data.formats.row_outcome import Drop

SHAPES = (
    ("prompt", "chosen", "rejected"),
    ("prompt", "completion", "label"),
    ("prompt", "response_a", "response_b", "winner"),
    ("prompt", "response_a", "response_b", "score_a", "score_b"),
    ("prompt", "responses", "scores"),
    ("prompt", "responses", "ranks"),
    ("prompt", "responses", "choice"),
    ("prompt", "responses"),
)
"""Sets of columns that are enough; the last one if the responses are objects with scores."""

GUESSES = {
    "prompt": (
        *(
            "question",
            "instruction",
            "query",
            "input",
            "context",
            "user",
            "problem",
            "post",
            "source",
            "request",
            "task",
        ),
        *("history", "dialogue", "conversation", "message", "title"),
    ),
    "chosen": (
        *("good", "better", "preferred", "accepted", "winner", "best", "positive", "pos", "win", "response_w"),
        *("winning", "correct"),
    ),
    "rejected": (
        *("bad", "worse", "dispreferred", "declined", "loser", "worst", "negative", "neg", "lose", "response_l"),
        *("losing", "incorrect", "wrong"),
    ),
    "completion": ("response", "answer", "output", "reply", "text", "generation"),
    "label": ("liked", "is_good", "desirable", "verdict", "feedback", "thumbs", "preference", "rating", "score"),
    "response_a": ("resp_a", "answer_a", "option_a", "candidate_a", "human_ref_a", "answer_0", "response_0"),
    "response_b": ("resp_b", "answer_b", "option_b", "candidate_b", "human_ref_b", "answer_1", "response_1"),
    "winner": ("preference", "preferred", "better", "choice", "verdict"),
    "score_a": ("rating_a", "reward_a", "score_0"),
    "score_b": ("rating_b", "reward_b", "score_1"),
    "responses": ("completions", "answers", "generations", "candidates", "outputs", "replies", "texts", "summaries"),
    "scores": ("ratings", "rewards", "points"),
    "ranks": (),
    "choice": ("best", "best_index", "chosen_index"),
}
"""Names in published datasets. They only fill in a suggestion that the user confirms."""

OPPOSITE = {"chosen": GUESSES["rejected"], "rejected": ()}
"""Words that a column of this place does not have: `incorrect` is not `correct`."""


def suggested_lines(mapping: dict[str, str | None]) -> str:
    """The `dataset_columns:` lines to add to a recipe, filled in as far as the mapping goes."""
    lines = [f"  {place}: {_yaml(column) if column else '<its column>'}" for place, column in mapping.items()]
    return "\n".join(["dataset_columns:", *lines])


def best_mapping(found: Sample) -> dict[str, str | None]:
    """{name known here: column or path, if one fits by its name and its content}, for the shape that has the most columns.

    A complete mapping reads at least one of the rows.
    """
    mappings = [_guess(places, found) for places in SHAPES]
    usable = [mapping for mapping in mappings if None in mapping.values() or works(mapping, found)]
    return max(
        usable or [dict.fromkeys(SHAPES[0])], key=lambda mapping: (None not in mapping.values(), _known(mapping))
    )


def works(mapping: dict[str, str], found: Sample) -> bool:
    """True if the rows are recognised under these names, and one of them can be read."""
    rows = [_renamed(row, mapping, found.columns) for row in found.rows]
    seen = Sample(tuple(dict.fromkeys(itertools.chain.from_iterable(rows))), rows)
    match = recognise(seen)
    return match is not None and (not match.paired or any(_is_read(match, row) for row in seen.rows))


def text_columns(found: Sample) -> list[str]:
    """Columns and paths inside columns that hold text or messages to read, not names, numbers or classes."""
    return [name for name in places(found) if is_prose(values(found, name), name)]


def places(found: Sample) -> Iterator[str]:
    """The columns, and after each one with objects the paths to their values."""
    for column in found.columns:
        yield column
        rows = [value for value in values(found, column) if isinstance(value, dict)]
        yield from dict.fromkeys(f"{column}.{key}" for value in rows for key in value)


def values(found: Sample, place: str) -> list:
    """The values of a column or path in the sampled rows, without nulls."""
    path = parse(place, found.columns)
    there = (row.get(place) if path is None else follow(row.get(path.root), path.steps) for row in found.rows)
    return [value for value in there if value is not None]


def siblings(found: Sample) -> list[tuple[str, str]]:
    """Two text columns whose names differ in their ending only: a and b, 1 and 2, 0 and 1."""
    texts = [name for name in text_columns(found) if name in found.columns]
    plain = {spelled_plainly(name): name for name in texts}
    return [
        (plain[name], plain[stem + second])
        for name in plain
        for first, second in compared.ENDINGS
        if name.endswith(first) and (stem := name.removesuffix(first)) and stem + second in plain
    ]


def overlooked_prompt(found: Sample) -> str | None:
    """A column that looks like the prompt of texts `chosen` and `rejected`, and that most of these texts do not contain."""
    column = _by_name("prompt", [name for name in text_columns(found) if name not in ("chosen", "rejected")])
    path = None if column is None else parse(column, found.columns)
    asked = [(row.get(column) if path is None else follow(row.get(path.root), path.steps), row) for row in found.rows]
    there = [
        text in row["chosen"] for text, row in asked if isinstance(text, str) and isinstance(row.get("chosen"), str)
    ]
    return column if there and sum(there) < len(there) / 2 else None


def _known(mapping: dict[str, str | None]) -> int:
    return sum(column is not None for column in mapping.values())


def _guess(wanted: tuple[str, ...], found: Sample) -> dict[str, str | None]:
    free = list(places(found))
    pairs = siblings(found)
    paired = {name for pair in pairs for name in pair}
    sides = dict(zip(("response_a", "response_b"), pairs[0], strict=True)) if pairs else {}
    result: dict[str, str | None] = {}
    for place in wanted:
        fitting = [name for name in free if fits(place, values(found, name), name)]
        if place == "completion":
            fitting = [name for name in fitting if name not in paired]
        result[place] = _by_name(place, fitting) or (sides[place] if sides.get(place) in fitting else None)
        if result[place] is not None:
            free.remove(result[place])
    if result["prompt"] is None and _known(result) == len(result) - 1:
        left = [name for name in free if fits("prompt", values(found, name), name)]
        result["prompt"] = left[0] if len(left) == 1 else None
    return result


def _by_name(place: str, candidates: list[str]) -> str | None:
    """The candidate whose name is a guess, else one that contains a guess as whole words, else as part of a word."""
    names = (place, *GUESSES[place])
    plain = {name: spelled_plainly(name.replace(".", "_")) for name in candidates}
    plain = {name: text for name, text in plain.items() if not any(word in text for word in OPPOSITE.get(place, ()))}
    exact = [name for guess in names for name, text in plain.items() if text == guess]
    words = [name for guess in names for name, text in plain.items() if f"_{guess}_" in f"_{text}_"]
    parts = [name for guess in names if len(guess) > 3 for name, text in plain.items() if guess in text]
    return next(iter(exact + words + parts), None)


def fits(place: str, values: list, name: str) -> bool:
    """Whether a column holds what this place needs, or nothing in the sampled rows."""
    if place == "label":
        return are_two_classes(values)
    if place in ("score_a", "score_b", "choice"):
        return are_numbers(values)
    if place in ("scores", "ranks"):
        return are_scores(values)
    if place == "winner":
        return any(_names_a_winner(value) for value in values)
    if place == "responses":
        return any(isinstance(value, list) and len(value) > 1 for value in values)
    return is_prose(values, name)


def _names_a_winner(value: object) -> bool:
    try:
        compared.named_winner(value, ("a", "b"))
    except Drop:
        return False
    return True


def _renamed(row: Row, mapping: dict[str, str], columns: tuple[str, ...]) -> Row:
    paths = {place: path for place, column in mapping.items() if (path := parse(column, columns)) is not None}
    known = {column: place for place, column in mapping.items() if place not in paths}
    row = {known.get(name, name): value for name, value in row.items() if name in known or name not in mapping} | {
        place: follow(row.get(path.root), path.steps) for place, path in paths.items()
    }
    other = known_names(row)
    return {other.get(name, name): value for name, value in row.items()}


def _is_read(match: Match, row: Row) -> bool:
    try:
        pairs, _ = match.pairs({name: row.get(name) for name in match.columns})
        return bool([match.apply(pair, set()) for pair in pairs])
    except Drop:
        return False


def _yaml(name: str) -> str:
    return f'"{name}"' if set(name) & set("[]{}:#,&*!|>'%@` ") else name
