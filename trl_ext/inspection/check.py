"""Training data as tokens, judged before any weights are loaded, and handed to the trainer as it is then.

The trainers would tokenise in their constructors, when the model is loaded already. `trl_ext.trainers.preference.construction` and
TRL's reward and SFT trainers take data that is tokenised, so nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext.data.examples import Examples
from trl_ext.inspection.facts import gather
from trl_ext.inspection.findings import Findings
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.inspection.tokenise import collate_images, has_images, tokenise
from trl_ext.inspection.truncation import limits
from trl_ext.methods import METHODS
from trl_ext.support.errors import UserError

STREAMED = 256
"""Rows of a stream that are looked at before a run."""
WITH_IMAGES = 32
"""Examples with images that are looked at: every image is opened and resized."""


class Checked(NamedTuple):
    """Examples and what is to be said of them.

    Attributes:
        tokenised: The examples with the columns of `trl_ext.inspection.tokenise`; none is left out or cut yet.
        findings: Of all of them.
        numbers: The rows of the source they come from.
    """

    tokenised: Dataset
    findings: Findings
    numbers: np.ndarray


def check(kind: str, given: Examples, processing_class: Any, args: Any, model: ModelFiles) -> Checked:
    """Tokenise examples in memory or on disk and count what the trainer makes of them.

    Args:
        kind: Kind of training, a key of `METHODS`.
        given: The examples, not a stream. Of pairs or answers with images the first `WITH_IMAGES` are taken.
        processing_class: Tokenizer or processor.
        args: The trainer's configuration.
        model: Of the base.

    Raises:
        UserError: A row cannot be tokenised, or images are not for a loss on preferences.
    """
    method = METHODS[kind]
    dataset, numbers, make, applied = given.train, given.numbers, tokenise, limits(kind, args)
    if has_images(dataset):
        if not (method.has_loss and method.reads_preferences):
            raise UserError("Data with images is looked into for losses on preferences only.")
        numbers, make = numbers[:WITH_IMAGES], collate_images
        dataset = dataset.select(range(len(numbers)))
        # Their collator cuts the end alone, and nothing is dropped before it.
        applied = applied._replace(keep_end=False, drops_the_unscored=False)
    tokenised = make(kind, dataset, processing_class, args, numbers)
    sampled = (args.max_completion_length or 0) if method.samples_completions else 0
    facts = gather(kind, tokenised, applied, model.stops)
    return Checked(tokenised, Findings(facts, model.stop_tokens, model.positions, sampled), numbers)


def before_training(
    kind: str,
    given: Examples,
    processing_class: Any,
    args: Any,
    model: ModelFiles,
    statements: list[str],
    peek: Callable[[int], Examples],
) -> Dataset | IterableDataset:
    """The training data for the trainer's constructor, tokenised where it takes that.

    Args:
        kind, given, processing_class, args, model: As for `check`; `given` may be a stream.
        statements: Receives what is worth saying.
        peek: Reads the first so many rows of the source, for a stream.

    Raises:
        UserError: Nothing can be learned from it. Of a stream, whose beginning may mislead, this is only said.
    """
    if isinstance(given.train, IterableDataset):
        start = f"The first {STREAMED} rows of the stream"
        try:
            findings = check(kind, peek(STREAMED), processing_class, args, model).findings
            statements += [f"{start}: {line}" for line in findings.summary()]
            findings.require_teachable()
        except UserError as error:
            statements.append(f"{start}: {error}")
        return given.train
    if has_images(given.train):  # the workers tokenise
        return given.train
    tokenised, findings, _ = check(kind, given, processing_class, args, model)
    statements += findings.summary()
    findings.require_teachable()
    method = METHODS[kind]
    if method.tokenised_by is None:
        return given.train
    if not method.filters_rows and findings.kept < len(tokenised):
        return tokenised.select(np.flatnonzero(~findings.facts.is_dropped))
    return tokenised
