"""Recognise every row of a dataset on its own: as a pair, a labelled completion or a prompt, and of which format.

A dataset is read as one format, and rows that do not fit are dropped. These counts show that a file was put together from
several sources.
"""

from __future__ import annotations

from collections import Counter

from datasets import Dataset, Features, Value

from trl_ext.data import unlabelled
from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.column_names import known_names
from trl_ext.data.demonstrations import SHAPES
from trl_ext.data.formats import READ, recognise
from trl_ext.data.formats.sample import LABELS, Row, Sample
from trl_ext.data.row_stats import EXAMPLES

COLUMN = "_trl_ext_row_kind"
UNKNOWN = "not recognised"


def count_kinds(rows: Dataset) -> dict[str, tuple[int, tuple[int, ...]]]:
    """{kind of row: (number of rows, numbers of the first few)}, the most common first."""
    names = [name for name in rows.column_names if name in (*READ, *unlabelled.ANSWERS, "text")]
    if not names:
        return {UNKNOWN: (len(rows), tuple(range(min(len(rows), EXAMPLES))))}
    narrow = rows.select_columns(names)
    kinds = narrow.map(
        _kinds,
        batched=True,
        remove_columns=names,
        features=Features({COLUMN: Value("string")}),
        new_fingerprint=fingerprint(narrow, "kinds"),
        desc="Recognising rows",
    )
    found: Counter[str] = Counter()
    first: dict[str, list[int]] = {}
    for start, batch in enumerate(kinds.iter(1000)):
        for i, name in enumerate(batch[COLUMN]):
            found[name] += 1
            if found[name] <= EXAMPLES:
                first.setdefault(name, []).append(1000 * start + i)
    return {name: (number, tuple(first[name])) for name, number in found.most_common()}


def _kinds(batch: dict[str, list]) -> dict[str, list]:
    return {
        COLUMN: [kind_of_row(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
    }


def kind_of_row(row: Row) -> str:
    """What one row is, in words."""
    known = known_names(row)
    values = {known.get(name, name): value for name, value in row.items() if value is not None}
    found = Sample(tuple(values), [values])
    match = recognise(found)
    if match is not None:
        style = "messages" if match.conversational else "plain text"
        return f"{'pair' if match.paired else 'labelled completion'}, {match.title}, {style}"
    shape = next((names for names in SHAPES if set(names) <= set(values)), None)
    if shape is not None:
        return f"completion without a label ({', '.join(shape)})"
    if (match := unlabelled.match_row(values)) is not None:
        return f"completion without a label, {match.title}, {'messages' if match.conversational else 'plain text'}"
    completions = {"chosen", "rejected", "completion"} & set(values)
    if found.kind("prompt") is not None and not completions:
        return "prompt only" + (", with a label" if set(LABELS) & set(values) else "")
    if completions in ({"chosen"}, {"rejected"}):
        return f"pair without its {'rejected' if 'chosen' in values else 'chosen'} completion"
    return UNKNOWN
