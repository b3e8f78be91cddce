"""Convert pairs into labelled completions, for losses that do not read pairs."""

from __future__ import annotations

import dataclasses

import numpy as np
from datasets import Dataset, Features, IterableDataset, Value

from trl_ext.data import golds, margins
from trl_ext.data.cache_keys import fingerprint
from trl_ext.data.loader import describe, read
from trl_ext.data.report import Loaded
from trl_ext.support.counts import count


def unpair(data: Loaded | Dataset | IterableDataset) -> Loaded:
    """Every pair as two completions of the same prompt: the chosen one desirable, the rejected one undesirable.

    The rows are those of ``trl.data_utils.unpair_preference_dataset``, with other columns (images, tools) repeated. The two
    completions of a pair stay next to each other: TRL puts a thousand chosen before a thousand rejected, so that the first
    few hundred rows would have one label. The labels are balanced, whatever the quality of the completions. Data that is
    labelled already is returned unchanged.
    """
    dataset, report = golds.without(margins.without(data if isinstance(data, Loaded) else read(data)))
    if not report.paired:
        return Loaded(dataset, report)
    features = dict(dataset.features)
    core = {"prompt": features["prompt"], "completion": features["chosen"], "label": Value("bool")}
    rest = {name: feature for name, feature in features.items() if name not in ("prompt", "chosen", "rejected")}
    cache = {}
    if isinstance(dataset, Dataset):
        cache = {
            "new_fingerprint": fingerprint(dataset, "unpair"),
            "desc": "Splitting pairs into labelled completions",
        }
    labelled = dataset.map(
        _split_pairs,
        batched=True,
        remove_columns=dataset.column_names,
        features=Features({**core, **rest}),
        **cache,
    )
    if report.rows_out is None:
        done = f"{report.done}, each pair split into a desirable and an undesirable completion"
        return Loaded(labelled, dataclasses.replace(report, paired=False, done=done))
    done = (
        f"{report.done}, {count(report.rows_out, 'pairs')} split into a desirable and an undesirable completion each"
    )
    known = {name: getattr(report, name) for name in ("source", "split", "format", "title", "ignored")}
    earlier = tuple(report.sentences()[1:])
    if report.ignored:  # the last sentence, which the new report repeats
        earlier = earlier[:-1]
    split = describe(labelled)
    pair = np.arange(len(labelled)) // 2
    number = pair if report.kept is None else report.kept[pair]
    examples = {text: tuple(dict.fromkeys(number[list(rows)].tolist())) for text, rows in split.examples.items()}
    known |= {"kept": number, "examples": {**report.examples, **examples}}
    return Loaded(labelled, dataclasses.replace(split, done=done, earlier=earlier, **known))


def _split_pairs(batch: dict[str, list]) -> dict[str, list]:
    completions = [text for pair in zip(batch["chosen"], batch["rejected"], strict=True) for text in pair]
    twice = {
        name: [value for value in column for _ in range(2)]
        for name, column in batch.items()
        if name not in ("chosen", "rejected")
    }
    return {**twice, "completion": completions, "label": [True, False] * len(batch["chosen"])}
