"""Convert a dataset of a recognised format to TRL's paired or unpaired type, batch by batch and cached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, Features, IterableDataset, concatenate_datasets

from trl_ext.data import row_stats
from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.formats import PASSED, Match, Row, Sample
from trl_ext.data.formats.row_outcome import Drop, Note
from trl_ext.data.golds import GOLD
from trl_ext.data.margins import MARGIN
from trl_ext.data.report import Report
from trl_ext.data.text_style import style_of
from trl_ext.data.trl_columns import has_trl_types, trl_features


def convert(
    dataset: Dataset | IterableDataset, match: Match, found: Sample, source: str, split: str
) -> tuple[Dataset | IterableDataset, Report]:
    """The usable rows in TRL's type, and the report."""
    outputs = [*match.outputs, *([] if match.paired else ["label"])]
    passed = [name for name in dataset.column_names if name in _passed(match) and name not in outputs]
    report = Report(
        source=source,
        split=split,
        format=match.format,
        title=match.title,
        done=_describe(match, changed=True),
        paired=match.paired,
        conversational=match.conversational,
        style=style_of(match, found),
        pairing=match.pairing if match.has_many else None,
        ignored=tuple(n for n in dataset.column_names if n not in (*match.columns, match.label, *passed)),
    )
    narrow = dataset.select_columns([*_columns_read(match), *passed])
    if isinstance(dataset, IterableDataset):
        features = Features({**trl_features(match, narrow), **{n: narrow.features[n] for n in passed}})
        return narrow.map(
            _convert_stream,
            batched=True,
            fn_kwargs={"match": match},
            remove_columns=[name for name in _columns_read(match) if name not in outputs],
            features=features,
        ), report

    if has_trl_types(match, narrow.features) and _are_converted(match, found):
        counted = scan(narrow.select_columns(_columns_read(match)), match)
        if not row_stats.any_changed(counted):
            done = narrow.select_columns([*outputs, *passed])
            return _select(done, counted), _counted(report, counted, match, passed, changed=False)
    text = narrow.select_columns(_columns_read(match))
    converted = text.map(
        _convert_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={"match": match},
        remove_columns=[name for name in _columns_read(match) if name not in outputs],
        features=Features({**trl_features(match, text), **row_stats.FEATURES}),
        new_fingerprint=fingerprint(text, "convert", _key(match)),
        desc="Reading preference data",
    )
    counted = converted.select_columns(list(row_stats.FEATURES))
    done = converted.select_columns(outputs)
    if passed:  # added after the text was converted, so that images are neither decoded nor written again
        beside = narrow.select_columns(passed)
        if match.scored is not None:
            beside = beside.select(row_stats.numbers(counted))
        done = concatenate_datasets([done, beside], axis=1)
    return _select(done, counted), _counted(report, counted, match, passed, changed=True)


def scan(dataset: Dataset, match: Match) -> Dataset:
    """The integers of every row (`row_stats.FEATURES`), without copying the text."""
    return dataset.map(
        _scan_batch,
        batched=True,
        with_indices=True,
        fn_kwargs={"match": match},
        remove_columns=dataset.column_names,
        features=row_stats.FEATURES,
        new_fingerprint=fingerprint(dataset, "scan", _key(match)),
        desc="Checking preference data",
    )


def _scan_batch(batch: dict[str, list], numbers: list[int], match: Match) -> dict[str, list]:
    return _by_column([integers for _, integers in _convert_rows(batch, numbers, match)], row_stats.FEATURES)


def _convert_batch(batch: dict[str, list], numbers: list[int], match: Match) -> dict[str, list]:
    outputs = [*match.outputs, *([] if match.paired else ["label"])]
    done = _convert_rows(batch, numbers, match)
    rows = [{**(row or dict.fromkeys(outputs)), **integers} for row, integers in done]
    return _by_column(rows, [*outputs, *row_stats.FEATURES])


def _convert_stream(batch: dict[str, list], match: Match) -> dict[str, list]:
    outputs = [*match.outputs, *([] if match.paired else ["label"])]
    done = _convert_rows(batch, range(len(next(iter(batch.values())))), match)
    kept = [(row, integers[row_stats.NUMBER]) for row, integers in done if row is not None]
    passed = {name: [column[i] for _, i in kept] for name, column in batch.items() if name in PASSED}
    return {**passed, **_by_column([row for row, _ in kept], outputs)}


def _convert_rows(batch: dict[str, list], numbers: Sequence[int], match: Match) -> list[tuple[Row | None, Row]]:
    return [
        done for number, row in zip(numbers, _rows(batch), strict=True) for done in _convert_row(row, number, match)
    ]


def _convert_row(row: Row, number: int, match: Match) -> list[tuple[Row | None, Row]]:
    """What becomes of a row: its pairs, or itself, each with their integers; without text where it is dropped."""
    text = {name: value for name, value in row.items() if name not in PASSED}
    try:
        pairs, left_out = match.pairs(text)
    except Drop as drop:
        return [(None, row_stats.dropped(drop.reason, number))]
    done = [_convert_pair(pair, number, match) for pair in pairs]
    done[0][1][row_stats.LEFT_OUT] = left_out
    return done


def _convert_pair(row: Row, number: int, match: Match) -> tuple[Row | None, Row]:
    notes: set[Note] = set()
    try:
        result = match.apply(row, notes)
    except Drop as drop:
        return None, row_stats.dropped(drop.reason, number)
    changed = match.scored is not None or result != {name: row.get(name) for name in result}
    return result, row_stats.kept(result, number, match.paired, match.conversational, notes, changed=changed)


def _rows(batch: dict[str, list]) -> list[Row]:
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def _by_column(rows: list[Row], names: Any) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in names}


def _passed(match: Match) -> list[str]:
    """Columns that are handed on unchanged. A margin belongs to one pair, a gold completion to all pairs of a prompt."""
    left_out = set() if match.paired else {MARGIN, GOLD}
    return [name for name in PASSED if name not in left_out and (name != MARGIN or match.scored is None)]


def _columns_read(match: Match) -> list[str]:
    return list(dict.fromkeys([*match.columns, *([match.label] if match.label else [])]))


def _select(dataset: Dataset, counted: Dataset) -> Dataset:
    usable = row_stats.usable(counted)
    return dataset if usable is None else dataset.select(usable)


def _counted(report: Report, counted: Dataset, match: Match, passed: list[str], changed: bool) -> Report:
    numbers = row_stats.counts(counted)
    desirable = numbers.pop("desirable")
    if not match.paired:
        numbers |= {"desirable": desirable, "undesirable": numbers["rows_out"] - desirable}
    if {"images", "image"} & set(passed):
        numbers["duplicates"] = None
    return dataclasses.replace(report, done=_describe(match, changed), **numbers)


def _describe(match: Match, changed: bool) -> str:
    shape = "/".join([*match.outputs, *([] if match.paired else ["label"])])
    style = "messages" if match.conversational else "plain text"
    if not changed:
        return f"{match.title}, {shape} as {style}, kept as they are"
    return f"{match.title} → {shape} as {style}"


def _are_converted(match: Match, found: Sample) -> bool:
    """True if the sampled rows have TRL's type already. The other rows are compared when they are scanned."""
    rows = [{name: row[name] for name in _columns_read(match)} for row in found.rows]
    done = [integers for row in rows for _, integers in _convert_row(row, 0, match)]
    return not any(each[row_stats.CHANGED] and not each[row_stats.REASON] for each in done)


def _key(match: Match) -> list:
    labels = sorted(match.verdicts.items(), key=repr)
    return [
        match.format,
        match.columns,
        match.paired,
        match.conversational,
        match.encoded,
        match.label,
        labels,
        match.pairing,
    ]
