"""Read data without preferences by the formats of labelled completions: Alpaca's columns, a question and its answer, transcripts.

Every row is given the label "desirable", and for prompts a completion, so that a format recognises the rest of it.
"""

from __future__ import annotations

import dataclasses

from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets

from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.formats import Match, Row, Sample, recognise
from trl_ext.data.formats.sample import LABELS
from trl_ext.data.loader import read
from trl_ext.data.report import Loaded
from trl_ext.data.sampling import sample

ANSWERS = ("completion", "response", "answer", "output", "reply", "generation")
"""Columns of a completion, in order of preference."""
PLACEHOLDER = "…"
"""The completion of a prompt, which is not used."""
TYPES = {"label": Value("bool"), "completion": Value("string")}


def demonstrations(dataset: Dataset | IterableDataset, source: str, split: str) -> Loaded | None:
    """Prompts and completions, or `None` if no format fits."""
    answer = answer_column(sample(dataset, known=None))
    if answer is None:
        return None
    if answer != "completion":
        dataset = dataset.rename_column(answer, "completion")
    return _read(dataset, {"label": True}, source, split, ("prompt", "completion"))


def prompts(dataset: Dataset | IterableDataset, source: str, split: str) -> Loaded | None:
    """Prompts beside the other columns, which reward functions may read; `None` if no format fits, and for a stream."""
    if isinstance(dataset, IterableDataset):
        return None
    hidden = [name for name in (*ANSWERS, *LABELS) if name in dataset.column_names]
    loaded = _read(
        dataset.remove_columns(hidden), {"label": True, "completion": PLACEHOLDER}, source, split, ("prompt",)
    )
    if loaded is None:
        return None
    read, report = loaded
    rest = dataset.select_columns([name for name in (*report.ignored, *hidden) if name in dataset.column_names])
    rest = rest if report.kept is None else rest.select(report.kept)
    whole = concatenate_datasets([read, rest], axis=1) if rest.column_names else read
    return Loaded(whole, dataclasses.replace(report, ignored=()))


def answer_column(found: Sample) -> str | None:
    """The column of completions that nothing compares or labels."""
    if any(found.has(name) for name in (*LABELS, "chosen", "rejected")):
        return None
    return next((name for name in ANSWERS if found.kind(name) in ("text", "messages")), None)


def match_row(row: Row) -> Match | None:
    """How one demonstration is read; `None` if it is none."""
    answer = answer_column(Sample(tuple(row), [row]))
    if answer is None:
        return None
    labelled = {name: value for name, value in row.items() if name != answer} | {
        "completion": row[answer],
        "label": True,
    }
    match = recognise(Sample(tuple(labelled), [labelled]))
    return None if match is None or match.paired else match


def _read(
    dataset: Dataset | IterableDataset, extra: Row, source: str, split: str, outputs: tuple[str, ...]
) -> Loaded | None:
    if not dataset.column_names:
        return None
    given = [name for name in dataset.column_names if name not in extra]
    dataset = _with_columns(dataset, extra)
    match = recognise(sample(dataset))
    if match is None or match.paired:
        return None
    loaded = read(dataset, source=source, split=split)
    unused = [name for name in ("completion", "label") if name not in outputs]
    done = f"{match.title} → {'/'.join(outputs)} as {'messages' if match.conversational else 'plain text'}"
    ignored = tuple(name for name in loaded.report.ignored if name in given)
    report = dataclasses.replace(loaded.report, done=done, desirable=None, undesirable=None, ignored=ignored)
    return Loaded(loaded.dataset.remove_columns(unused), report)


def _with_columns(dataset: Dataset | IterableDataset, extra: Row) -> Dataset | IterableDataset:
    features = Features({**dataset.features, **{name: TYPES[name] for name in extra}})
    cache = {}
    if isinstance(dataset, Dataset):
        cache = {"new_fingerprint": fingerprint(dataset, "add", sorted(extra)), "desc": "Reading data"}
    return dataset.map(_add, batched=True, fn_kwargs={"extra": extra}, features=features, **cache)


def _add(batch: dict[str, list], extra: Row) -> dict[str, list]:
    rows = len(next(iter(batch.values())))
    return {name: [value] * rows for name, value in extra.items()}
