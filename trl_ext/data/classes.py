"""What each row of a file is by itself: pairs, labelled answers, prompts alone; read as which format.

A dataset is read as one format, and rows that do not fit are dropped. Files put together from several sources are told
by this.
"""

from __future__ import annotations

import json
from collections import Counter

from datasets import Dataset, Features, Value

from trl_ext.data.formats import READ, recognise
from trl_ext.data.formats.match import LABELS, Row, Sample
from trl_ext.data.formats.messages import kind
from trl_ext.data.normalise import fingerprint
from trl_ext.data.prompts_and_demos import SHAPES
from trl_ext.data.row_stats import EXAMPLES

CODE = "_trl_ext_class"
UNKNOWN = "not recognised"


def count(rows: Dataset) -> dict[str, tuple[int, tuple[int, ...]]]:
    """{class: (number of rows, numbers of the first few)}, the commonest first."""
    names = [name for name in rows.column_names if name in (*READ, "text")]
    if not names:
        return {UNKNOWN: (len(rows), tuple(range(min(len(rows), EXAMPLES))))}
    narrow = rows.select_columns(names)
    classes = narrow.map(
        _classes,
        batched=True,
        remove_columns=names,
        features=Features({CODE: Value("string")}),
        new_fingerprint=fingerprint(narrow, "classes"),
        desc="Telling rows apart",
    )
    found: Counter[str] = Counter()
    first: dict[str, list[int]] = {}
    for start, batch in enumerate(classes.iter(1000)):
        for i, name in enumerate(batch[CODE]):
            found[name] += 1
            if found[name] <= EXAMPLES:
                first.setdefault(name, []).append(1000 * start + i)
    return {name: (number, tuple(first[name])) for name, number in found.most_common()}


def _classes(batch: dict[str, list]) -> dict[str, list]:
    return {CODE: [of(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]}


def of(row: Row) -> str:
    """The class of one row, in words."""
    there = {name: value for name, value in row.items() if value is not None}
    found = Sample(tuple(there), [there])
    match = recognise(found)
    if match is not None:
        style = "messages" if match.conversational else "plain text"
        return f"{'pair' if match.paired else 'labelled answer'}, {match.title}, {style}"
    shape = next((names for names in SHAPES if set(names) <= set(there)), None)
    if shape is not None:
        return f"answer without a label ({', '.join(shape)})"
    answers = {"chosen", "rejected", "completion"} & set(there)
    if found.kind("prompt") is not None and not answers:
        return "prompt alone" + (", with a label" if set(LABELS) & set(there) else "")
    if answers in ({"chosen"}, {"rejected"}):
        return f"pair without its {'rejected' if 'chosen' in there else 'chosen'} answer"
    return UNKNOWN


def excerpt(row: Row, width: int = 44) -> str:
    """A row in one line: the end of its prompt, beginning and end of everything else."""
    parts = []
    for name, value in row.items():
        if value is None or name.endswith("_ids") or name in ("images", "image", "label", "input_ids", "labels"):
            continue
        text = " ".join(_text(value).split())
        if len(text) > width:
            start = 0 if name == "prompt" else width // 2
            text = f"{text[:start]}…{text[start + 1 - width :]}"
        parts.append(f"{name} {text!r}")
    return " | ".join(parts) or "nothing in it"


def _text(value: object) -> str:
    """A value's words; of messages the last one's."""
    if isinstance(value, list):
        return _text(value[-1]) if kind(value) == "messages" else json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, dict):
        return _text(
            next(
                (value[key] for key in ("content", "value") if value.get(key) is not None),
                json.dumps(value, default=str),
            )
        )
    return str(value)
