"""Pairs as single answers: what a loss that reads no pairs trains on when only pairs are at hand."""

from __future__ import annotations

import dataclasses

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value

from trl_ext.data.loader import describe, read
from trl_ext.data.normalise import fingerprint
from trl_ext.data.report import Loaded, count


def unpair(data: Loaded | Dataset | IterableDataset) -> Loaded:
    """Every pair as two answers to the same prompt: the chosen one desirable, the rejected one undesirable.

    The rows are those of ``trl.data_utils.unpair_preference_dataset``, other columns (images, tools) twice,
    but the two answers of a pair stay neighbours: TRL puts a thousand chosen before a thousand rejected, so
    that the first few hundred rows would have one label. The classes are balanced, which says nothing about
    how good either answer is by itself. Answers already single are returned as they are.
    """
    dataset, report = data if isinstance(data, Loaded) else read(data)
    if not report.paired:
        return Loaded(dataset, report)
    features = dict(dataset.features)
    answers = {"prompt": features["prompt"], "completion": features["chosen"], "label": Value("bool")}
    rest = {name: feature for name, feature in features.items() if name not in ("prompt", "chosen", "rejected")}
    cache = {}
    if isinstance(dataset, Dataset):
        cache = {"new_fingerprint": fingerprint(dataset, "unpair"), "desc": "Unpairing preference data"}
    single = dataset.map(
        _two_answers,
        batched=True,
        remove_columns=dataset.column_names,
        features=Features({**answers, **rest}),
        **cache,
    )
    if report.rows_out is None:
        done = f"{report.done}, each pair as one desirable and one undesirable answer"
        return Loaded(single, dataclasses.replace(report, paired=False, done=done))
    done = f"{report.done}; {count(report.rows_out, 'pairs')} → one desirable and one undesirable answer each"
    known = {name: getattr(report, name) for name in ("source", "split", "format", "title", "ignored")}
    earlier = tuple(report.sentences()[1:])
    if report.ignored:  # the last sentence, which the new report says itself
        earlier = earlier[:-1]
    answers = describe(single)
    pair = np.arange(len(single)) // 2
    number = pair if report.kept is None else report.kept[pair]
    examples = {text: tuple(dict.fromkeys(number[list(rows)].tolist())) for text, rows in answers.examples.items()}
    known |= {"kept": number, "examples": {**report.examples, **examples}}
    return Loaded(single, dataclasses.replace(answers, done=done, earlier=earlier, **known))


def _two_answers(batch: dict[str, list]) -> dict[str, list]:
    answers = [answer for pair in zip(batch["chosen"], batch["rejected"], strict=True) for answer in pair]
    twice = {
        name: [value for value in column for _ in range(2)]
        for name, column in batch.items()
        if name not in ("chosen", "rejected")
    }
    return {**twice, "completion": answers, "label": [True, False] * len(batch["chosen"])}
