"""Every example as a few numbers: lengths, what is cut, what is equal, what ends. No text and no token is kept.

A million pairs take some 40 MB. Arrays have one entry per example, in the order of the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow
import xxhash
from datasets import Dataset

from trl_ext.inspection.truncation import Cut, Limits, apply
from trl_ext.methods import METHODS, Method

BATCH = 1000
AFTER_STOP = 2
"""Tokens that may follow an end-of-sequence token at the end of an answer: templates write a line break after it."""


@dataclass
class Facts:
    """What the examples of a dataset are reduced to.

    Attributes:
        method: Kind of training.
        limits: What was applied.
        lengths: Tokens before anything is cut, of the prompt and of each answer; of a reward model's sequences whole.
        kept: Tokens of each answer that are left.
        cut: Tokens of a sequence after the cut, for each answer.
        is_dropped: Whether the trainer leaves the example out.
        flags: What else is true of the example, by name; see `trl_ext.inspection.findings`.
        digests: 64 bits of what is left of the example, equal for equal tokens.
        labels: Whether an answer is desirable; `None` where there are no labels.
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

    def __len__(self) -> int:
        return len(self.is_dropped)


def gather(kind: str, tokenised: Dataset, limits: Limits, stops: set[int]) -> Facts:
    """Reduce a dataset of `trl_ext.inspection.tokenise` to its facts, batch by batch.

    Args:
        kind: Kind of training, a key of `METHODS`.
        tokenised: Holds the `token_columns` of its kind, and `label` if unpaired.
        limits: See there.
        stops: Ids of the tokens that end a sequence.
    """
    method = METHODS[kind]
    read = {"demonstrations": _supervised, "prompts": _prompts}.get(method.reads, _answers)
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
    _compare(facts)
    return facts


class Lists:
    """A column of lists of token ids."""

    def __init__(self, column: pyarrow.ChunkedArray) -> None:
        array = column.combine_chunks()
        self.values = array.values.to_numpy(zero_copy_only=False)
        self.offsets = array.offsets.to_numpy().astype(np.int64)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every list, as a view."""
        for start, stop in pairwise(self.offsets.tolist()):
            yield self.values[start:stop]

    def last(self, tokens: set[int]) -> np.ndarray:
        """Where in each list one of `tokens` occurs last; −1 where none does."""
        places = np.flatnonzero(np.isin(self.values, list(tokens)))
        found = np.searchsorted(places, self.offsets[1:]) - 1
        place = np.where(found >= 0, places[found], -1) if len(places) else np.full(len(found), -1)
        return np.where(place >= self.offsets[:-1], place - self.offsets[:-1], -1)


def _batches(tokenised: Dataset, names: list[str]) -> Iterator[dict[str, Any]]:
    for table in tokenised.select_columns(names).with_format("arrow").iter(BATCH):
        yield {name: np.asarray(table[name]) if name == "label" else Lists(table[name]) for name in names}


def _answers(method: Method, batch: dict[str, Any], limits: Limits, stops: set[int]) -> dict[str, np.ndarray]:
    """Facts of pairs and of single answers; a reward model's include their prompts."""
    answers = {name: batch[f"{name}_ids"] for name in method.completions}
    lengths = {name: ids.lengths for name, ids in answers.items()}
    n = len(next(iter(lengths.values())))
    prompts = batch.get("prompt_ids") or [np.empty(0, np.int64)] * n
    prompt = np.zeros(n, np.int64) if isinstance(prompts, list) else prompts.lengths
    cuts = {name: apply(limits, prompt, length) for name, length in lengths.items()}
    found = {} if isinstance(prompts, list) else {"length/prompt": prompt.astype(np.uint32)}
    found |= _of_answers(prompt, lengths, cuts, {name: ids.last(stops) for name, ids in answers.items()})
    if limits.max_length is None or limits.keep_end:
        found["dropped"] = np.zeros(n, bool)
    elif limits.is_cut:  # the prompt alone fills it
        found["dropped"] = (prompt >= limits.max_length) & limits.drops_the_unscored
    else:
        found["dropped"] = np.maximum(*lengths.values()) > limits.max_length
    left = [_left(ids, cuts[name]) for name, ids in answers.items()]
    if len(left) == 2:
        found["flag/identical"] = np.fromiter(map(np.array_equal, *answers.values()), bool, n)
        found["flag/identical_cut"] = np.fromiter(map(np.array_equal, *left), bool, n) & ~found["flag/identical"]
    found["digest"] = np.fromiter(map(_digest, prompts, *left), np.int64, n)
    return found | ({"label": batch["label"].astype(bool)} if "label" in batch else {})


def _supervised(method: Method, batch: dict[str, Any], limits: Limits, stops: set[int]) -> dict[str, np.ndarray]:
    """Facts of answers to imitate: what comes before the first token that is learned from counts as the prompt."""
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
    found |= _of_answers(prompt, {"completion": length - prompt}, {"completion": cut}, {"completion": stop - prompt})
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


def _of_answers(
    prompt: np.ndarray, lengths: dict[str, np.ndarray], cuts: dict[str, Cut], stops: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Lengths and cuts of the answers to a prompt, and whether they end; `stops` is where their last stop token is."""
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


def _left(ids: Lists, cut: Cut) -> list[np.ndarray]:
    """What is left of each list."""
    return [row[start:stop] for row, start, stop in zip(ids, cut.start.tolist(), cut.stop.tolist(), strict=True)]


def _digest(*parts: np.ndarray) -> int:
    hashed = xxhash.xxh64()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(np.ascontiguousarray(part))
    return int.from_bytes(hashed.digest(), "little", signed=True)


def _compare(facts: Facts) -> None:
    """Flags of the examples that are the same as an earlier one, or of which two labels are given.

    Examples that are left out are compared with nothing.
    """
    rows = np.flatnonzero(~facts.is_dropped)
    digests = facts.digests[rows]
    facts.flags["duplicate"] = np.zeros(len(facts), bool)
    same = digests
    if facts.labels is not None:
        labels = facts.labels[rows]
        same = digests ^ labels  # another label is another example
        both = np.intersect1d(digests[labels], digests[~labels])
        facts.flags["contradictory"] = np.zeros(len(facts), bool)
        facts.flags["contradictory"][rows] = np.isin(digests, both)
    _, first = np.unique(same, return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False
    facts.flags["duplicate"][rows] = again
