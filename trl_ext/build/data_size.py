"""Measure the training data of a recipe: how many examples an epoch has, and how many tokens they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import IterableDataset

from trl_ext.build import dataset
from trl_ext.build.tokenizer import check_template, load_tokenizer, model_files_of, on_templates
from trl_ext.inspection.check import check
from trl_ext.inspection.facts import Facts
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError

SAMPLE = 1000
"""Examples that are tokenised to measure lengths. They are drawn at random: the first rows of a file may not be typical."""


@dataclass(frozen=True)
class DataSize:
    """The size of the data that a trainer learns from.

    Attributes:
        name: The data, in a sentence.
        examples: Examples of an epoch: held-out rows and rows without use are not among them.
        sequences: Tokens of the longest sequence of each tokenised example (prompt and completion), before any cut.
        tokens: Tokens of each tokenised example before any cut: its completions, and its prompt once.
        positions: Number of positions of the model, if known.
        columns: Columns of the examples.
        statements: Sentences about how the data was read, and whether the chat template is applied.
    """

    name: str
    examples: int
    sequences: np.ndarray
    tokens: np.ndarray
    positions: int | None
    columns: tuple[str, ...]
    statements: list[str]

    @property
    def is_sample(self) -> bool:
        """Whether only some of the examples were tokenised."""
        return len(self.sequences) < self.examples

    def percentile(self, share: float) -> int:
        """Tokens of a sequence that this share of the examples does not exceed."""
        return int(np.quantile(self.sequences, share, method="inverted_cdf"))

    def longer_than(self, limit: int) -> float:
        """Share of the examples with a sequence of more than `limit` tokens."""
        return float((self.sequences > limit).mean())

    def mean_tokens(self, sequences: int, limit: int | None) -> float:
        """Mean tokens of an example, once sequences are cut.

        Args:
            sequences: Sequences per example.
            limit: Most tokens of a sequence; `None` for no limit.
        """
        tokens = self.tokens if limit is None else np.minimum(self.tokens, sequences * limit)
        return float(tokens.mean())


def measure(recipe: Recipe, args: Any) -> DataSize:
    """Read the training data, and tokenise up to `SAMPLE` examples as the trainer does.

    Args:
        recipe: A loaded recipe.
        args: The trainer's configuration.

    Raises:
        UserError: The data or the tokenizer cannot be read, or nothing can be learned from the rows.
    """
    statements: list[str] = []
    given = dataset.read(recipe, args, statements)
    name = dataset.source(recipe).name
    if isinstance(given.train, IterableDataset):
        raise UserError(f"{name} is a stream, whose examples are not counted before training.")
    processing_class = load_tokenizer(recipe)
    check_template(recipe, args, processing_class, given.train)
    statements += on_templates(recipe, args, processing_class, given.train)
    model = model_files_of(recipe, processing_class)
    some = drawn(len(given.train))
    sampled = given._replace(train=given.train.select(some), numbers=given.numbers[some])
    findings = check(recipe.method, sampled, processing_class, args, model).findings
    findings.require_teachable()
    sequences, tokens = _tokens(findings.facts)
    return DataSize(
        name=name,
        examples=len(given.train),
        sequences=sequences,
        tokens=tokens,
        positions=model.positions,
        columns=tuple(given.train.column_names),
        statements=statements,
    )


def drawn(count: int) -> np.ndarray:
    """Numbers of the examples to tokenise: all of a few, `SAMPLE` at random of many."""
    if count <= SAMPLE:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))


def _tokens(facts: Facts) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the longest sequence, and of all completions and the prompt once, of each example."""
    prompt = facts.lengths.get("prompt", np.zeros(len(facts), np.int64)).astype(np.int64)
    completions = [length.astype(np.int64) for name, length in facts.lengths.items() if name != "prompt"]
    if not completions:
        return prompt, prompt
    return prompt + np.maximum.reduce(completions), prompt + np.add.reduce(completions)
