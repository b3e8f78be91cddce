"""Open the training data of a recipe as its trainer will see it, without loading weights, and report on it."""

import functools
from typing import Any

from datasets import IterableDataset

from trl_ext.build import dataset
from trl_ext.build.doubled import without_doubled
from trl_ext.build.template import check_template, on_templates
from trl_ext.build.tokenizer import load_tokenizer, model_files_of
from trl_ext.inspection.check import check
from trl_ext.inspection.report import Report, describe
from trl_ext.recipe import Recipe
from trl_ext.support.counts import are, count

STREAMED = 1000
"""Rows of a stream that are read unless another number is given."""


def inspect(recipe: Recipe, args: Any, first: int | None = None) -> Report:
    """Report on the training data of a recipe.

    Args:
        recipe: A loaded recipe.
        args: The trainer's configuration.
        first: Read only so many rows of the source. Of a stream, `STREAMED` rows are read by default.

    Raises:
        UserError: The data cannot be read or turned into tokens.
    """
    rows, name = dataset.source(recipe)
    partial = ""
    if isinstance(rows, IterableDataset):
        first = first or STREAMED
        partial = f"Only the first {count(first, 'rows')} of the stream {name} {are(first)} read."
    elif first is not None and first < len(rows):
        partial = f"Only the first {first:,} of {count(len(rows), 'rows')} {are(first)} read (`--rows`)."
    rows = rows if first is None else dataset.source(recipe, first).rows
    statements: list[str] = []
    tokenizer = functools.cache(lambda: load_tokenizer(recipe, statements))
    given = dataset.read(recipe, args, statements, first, tokenizer)
    processing_class = tokenizer()
    check_template(recipe, args, processing_class, given.train)
    statements += on_templates(recipe, args, processing_class, given.train)
    model_files = model_files_of(recipe, processing_class)
    given = without_doubled(recipe.method, args, given, processing_class, model_files, statements)
    checked = check(recipe.method, given, processing_class, args, model_files)
    return describe(rows, given, checked, args, processing_class, partial, statements)
