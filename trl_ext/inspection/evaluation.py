"""Tokenise evaluation data before weights are loaded, so that rows that the trainer would drop are counted."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext.data.examples import Examples
from trl_ext.inspection.check import check
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.inspection.tokenise import has_images
from trl_ext.methods import Method
from trl_ext.support.counts import are, count
from trl_ext.support.errors import UserError


def before_evaluation(
    method: Method, given: Examples, processing_class: Any, args: Any, model: ModelFiles, statements: list[str]
) -> Dataset | IterableDataset | None:
    """The evaluation data for the trainer's constructor, without the rows that it would drop.

    Args:
        method, given, processing_class, args, model: As for `check`.
        statements: Receives a sentence about dropped rows.

    Raises:
        UserError: Every row would be dropped.
    """
    rows = given.evaluation
    if not isinstance(rows, Dataset) or method.tokenised_by is None or has_images(rows) or not len(rows):
        return rows
    as_trained = Examples(rows, None, given.report, np.arange(len(rows)), given.thoughts)
    try:
        tokenised, findings, _ = check(method, as_trained, processing_class, _as_evaluated(args), model)
    except UserError as error:
        raise UserError(str(error).replace("the training data", "the evaluation data")) from error
    dropped = len(tokenised) - findings.kept
    if not dropped:
        return tokenised
    why = findings.found[0].sentence
    if not findings.kept:
        raise UserError(
            f"Every row of the evaluation data would be dropped: {why}. Nothing would be evaluated. Raise `max_length`, or "
            "evaluate on other rows (`eval_size`, `dataset_test_split`)."
        )
    statements.append(f"{dropped:,} of {count(len(tokenised), 'evaluation examples')} {are(dropped)} dropped: {why}.")
    return tokenised.select(np.flatnonzero(~findings.facts.is_dropped))


def _as_evaluated(args: Any) -> Any:
    """The configuration with the packing that applies in evaluation."""
    if getattr(args, "eval_packing", None) is None:
        return args
    other = copy.copy(args)
    other.packing = args.eval_packing
    return other
