"""Reduce tokenised examples to a few numbers each: lengths, cuts, duplicates, end tokens.

No text and no tokens are kept: a million pairs take about 40 MB. Arrays have one entry per example, in the order of the
dataset.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset

from trl_ext.inspection.token_lists import TokenLists
from trl_ext.inspection.truncation import Cut, Limits, apply
from trl_ext.methods import Method

BATCH = 1000
AFTER_STOP = 2
"""Tokens that may follow the end-of-sequence token of a completion: some chat templates write a line break after it."""


@dataclass
class Facts:
    """The facts about the examples of a dataset.

    Attributes:
        method: Kind of training.
        limits: The limits that were applied.
        lengths: Number of tokens before any cut, of the prompt and of each completion; for a reward model, of prompt and
            completion together.
        kept: Number of tokens of each completion after the cut.
        cut: Number of tokens of prompt and completion after the cut, for each completion.
        is_dropped: Whether the trainer drops the example.
        flags: What else is true of the example, by name; see `trl_ext.inspection.finding_sentences`.
        digests: 64-bit hash of the tokens after the cut.
        labels: Whether a completion is desirable; `None` without labels.
        thoughts: What each completion thinks before it answers, as kinds of `trl_ext.inspection.thoughts`; empty where none does.
    """

    method: Method
    limits: Limits
    lengths: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]
    cut: dict[str, np.ndarray]
    is_dropped: np.ndarray
    flags: dict[str, np.ndarray]
    digests: np.ndarray
    labels: np.ndarray | None
    thoughts: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.is_dropped)


def gather(method: Method, tokenised: Dataset, limits: Limits, stops: set[int]) -> Facts:
    """Reduce a dataset of `trl_ext.inspection.tokenise` to its facts, batch by batch.

    Args:
        method: The kind of training.
        tokenised: Holds the `token_columns` of its kind, and `label` if unpaired.
        limits: The limits that the trainer applies.
        stops: Ids of the tokens that end a sequence.
    """
    read = {"demonstrations": _demonstrations, "prompts": _prompts}.get(method.reads, _preferences)
    names = [*method.token_columns, *(["label"] if method.reads == "labelled" else [])]
    parts = [read(method, batch, limits, stops) for batch in _batches(tokenised, names)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def group(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in joined.items() if name.startswith(prefix)}

    facts = Facts(
        method=method,
        limits=limits,
        lengths=group("length/"),
        kept=group("kept/"),
        cut=group("cut/"),
        is_dropped=joined["dropped"],
        flags=group("flag/"),
        digests=joined["digest"],
        labels=joined.get("label"),
    )
    _flag_duplicates(facts)
    return facts


def _batches(tokenised: Dataset, names: list[str]) -> Iterator[dict[str, Any]]:
    for table in tokenised.select_columns(names).with_format("arrow").iter(BATCH):
        yield {name: np.asarray(table[name]) if name == "label" else TokenLists(table[name]) for name in names}


def _preferences(method: Method, batch: dict[str, Any], limits: Limits, stops: set[int]) -> dict[str, np.ndarray]:
    """Facts about pairs and labelled completions. The completions of a reward model include their prompts."""
    completions = {name: batch[f"{name}_ids"] for name in method.completions}
    lengths = {name: ids.lengths for name, ids in completions.items()}
    n = len(next(iter(lengths.values())))
    prompts = batch.get("prompt_ids") or [np.empty(0, np.int64)] * n
    prompt = np.zeros(n, np.int64) if isinstance(prompts, list) else prompts.lengths
    cuts = {name: apply(limits, prompt, length) for name, length in lengths.items()}
    found = {} if isinstance(prompts, list) else {"length/prompt": prompt.astype(np.uint32)}
    found |= _about_completions(prompt, lengths, cuts, {name: ids.last(stops) for name, ids in completions.items()})
    if limits.max_length is None or limits.keep_end:
        found["dropped"] = np.zeros(n, bool)
    elif limits.is_cut:  # the prompt leaves no room
        found["dropped"] = (prompt >= limits.max_length) & limits.drops_the_unscored
    else:
        found["dropped"] = np.maximum(*lengths.values()) > limits.max_length
    left = [_left(ids, cuts[name]) for name, ids in completions.items()]
    if len(left) > 1:
        pair = itertools.islice(completions.values(), 2)
        found["flag/identical"] = np.fromiter(map(np.array_equal, *pair), bool, n)
        found["flag/identical_cut"] = np.fromiter(map(np.array_equal, *left[:2]), bool, n) & ~found["flag/identical"]
    found["digest"] = np.fromiter(map(_digest, prompts, *left), np.int64, n)
    return found | ({"label": batch["label"].astype(bool)} if "label" in batch else {})


def _demonstrations(method: Method, batch: dict[str, Any], limits: Limits, stops: set[int]) -> dict[str, np.ndarray]:
    """Facts about demonstrations. Everything before the first token that is trained on counts as the prompt."""
    ids, length = batch["input_ids"], batch["input_ids"].lengths
    scored = [np.flatnonzero(labels != -100) for labels in batch["labels"]]
    n = len(scored)
    prompt = np.fromiter(
        (places[0] if len(places) else all for places, all in zip(scored, length, strict=True)), int, n
    )
    last = np.fromiter((places[-1] if len(places) else -1 for places in scored), int, n)
    cut = apply(limits, prompt, length - prompt)
    stop = ids.last(stops)
    found = {"length/prompt": prompt.astype(np.uint32)}
    found |= _about_completions(
        prompt, {"completion": length - prompt}, {"completion": cut}, {"completion": stop - prompt}
    )
    found["flag/empty"] = (length == prompt) | (stop == prompt)
    found["dropped"] = np.zeros(n, bool)
    if limits.max_length is not None and limits.drops_the_unscored:
        found["dropped"] = last < length - limits.max_length if limits.keep_end else prompt >= limits.max_length
        found["dropped"] |= last < 0
    sequences = _left(ids, Cut(prompt, prompt - cut.prompt + cut.start, prompt + cut.stop))
    found["digest"] = np.fromiter(map(_digest, sequences), np.int64, n)
    return found


def _prompts(method: Method, batch: dict[str, Any], limits: Limits, stops: set[int]) -> dict[str, np.ndarray]:
    ids = batch["prompt_ids"]
    n = len(ids.lengths)
    digests = np.fromiter(map(_digest, ids), np.int64, n)
    return {"length/prompt": ids.lengths.astype(np.uint32), "dropped": np.zeros(n, bool), "digest": digests}


def _about_completions(
    prompt: np.ndarray, lengths: dict[str, np.ndarray], cuts: dict[str, Cut], stops: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Lengths and cuts of the completions of a prompt, and whether they end.

    `stops` holds the position of the last stop token of each completion; −1 if there is none.
    """
    found, lost, endless = {}, [], []
    for name, cut in cuts.items():
        kept = cut.stop - cut.start
        found[f"length/{name}"] = lengths[name].astype(np.uint32)
        found[f"kept/{name}"] = kept.astype(np.uint32)
        found[f"cut/{name}"] = (cut.prompt + kept).astype(np.uint32)
        found[f"flag/{name}_cut"] = kept < lengths[name]
        ends = (stops[name] >= 0) & (lengths[name] - stops[name] <= 1 + AFTER_STOP)
        endless.append(~ends)
        lost.append(ends & ((stops[name] >= cut.stop) | (stops[name] < cut.start)))
    found["flag/prompt_cut"] = np.any([cut.prompt < prompt for cut in cuts.values()], axis=0)
    found["flag/eos_lost"], found["flag/no_eos"] = np.any(lost, axis=0), np.any(endless, axis=0)
    return found


def _left(ids: TokenLists, cut: Cut) -> list[np.ndarray]:
    """The tokens of each list that the cut keeps."""
    return [row[start:stop] for row, start, stop in zip(ids, cut.start.tolist(), cut.stop.tolist(), strict=True)]


def _digest(*parts: np.ndarray) -> int:
    hashed = xxhash.xxh64()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(np.ascontiguousarray(part))
    return int.from_bytes(hashed.digest(), "little", signed=True)


def _flag_duplicates(facts: Facts) -> None:
    """Flag examples that repeat an earlier one, and those that have both labels. Dropped examples are not compared."""
    rows = np.flatnonzero(~facts.is_dropped)
    digests = facts.digests[rows]
    facts.flags["duplicate"] = np.zeros(len(facts), bool)
    same = digests
    if facts.labels is not None:
        labels = facts.labels[rows]
        same = digests ^ labels  # the same completion with another label is another example
        both = np.intersect1d(digests[labels], digests[~labels])
        facts.flags["contradictory"] = np.zeros(len(facts), bool)
        facts.flags["contradictory"][rows] = np.isin(digests, both)
    _, first = np.unique(same, return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False
    facts.flags["duplicate"][rows] = again
