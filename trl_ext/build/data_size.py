"""Measure the training data of a recipe: how many examples an epoch has, and how many tokens they have."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from trl_ext.build import dataset
from trl_ext.build.duration import count_steps
from trl_ext.build.template import check_template, on_templates
from trl_ext.build.tokenizer import load_tokenizer, model_files_of
from trl_ext.demo import EMBEDDED
from trl_ext.inspection.check import check
from trl_ext.methods import Method
from trl_ext.planner.schedule import Schedule
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError

SAMPLE = 1000
"""Examples that are tokenised to measure lengths. They are drawn at random: the first rows of a file may not be typical."""

STEP = 64
"""Suggested lengths are multiples of this many tokens."""
SHARES = {"median": 0.5, "95%": 0.95, "99%": 0.99}
"""Percentiles of lengths in sentences."""


@dataclass(frozen=True)
class DataSize:
    """The size of the data that a trainer learns from.

    Attributes:
        name: The data, in a sentence.
        examples: Examples of an epoch: held-out rows and rows without use are not among them.
        prompts: Tokens of the prompt of each tokenised example, before any cut.
        completions: Tokens of each of its completions, before any cut, one array per completion; none of sampled ones.
        positions: Number of positions of the model, if known.
        columns: Columns of the examples.
        statements: Sentences about how the data was read, and whether the chat template is applied.
    """

    name: str
    examples: int
    prompts: np.ndarray
    completions: tuple[np.ndarray, ...]
    positions: int | None
    columns: tuple[str, ...]
    statements: list[str]

    @property
    def is_sample(self) -> bool:
        """Whether only some of the examples were tokenised."""
        return len(self.prompts) < self.examples

    @property
    def sequences(self) -> np.ndarray:
        """Tokens of the longest sequence of each tokenised example: prompt and completion."""
        return self.prompts + np.maximum.reduce([np.zeros_like(self.prompts), *self.completions])

    def percentile(self, share: float) -> int:
        """Tokens of a sequence that this share of the examples does not exceed."""
        return int(np.quantile(self.sequences, share, method="inverted_cdf"))

    def longer_than(self, limit: int) -> float:
        """Share of the examples with a sequence of more than `limit` tokens."""
        return float((self.sequences > limit).mean())

    def packed_tokens(self, limit: int | None) -> float:
        """Mean tokens of an example whose completions share one prompt, once sequences are cut to `limit`."""
        prompts = self.prompts if limit is None else np.minimum(self.prompts, limit)
        left = [count if limit is None else np.clip(limit - self.prompts, 0, count) for count in self.completions]
        return float((prompts + sum(left)).mean())

    def counted_tokens(self, limit: int | None) -> float:
        """The same as a run counts `num_tokens`: the prompt once for each completion."""
        found = [self.prompts + count for count in self.completions] or [self.prompts]
        return float(sum(tokens if limit is None else np.minimum(tokens, limit) for tokens in found).mean())


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
    name = "the embedded data" if recipe.get("dataset_name") == EMBEDDED else dataset.source(recipe).name
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
    lengths = {name: array.astype(np.int64) for name, array in findings.facts.lengths.items()}
    return DataSize(
        name=name,
        examples=len(given.train),
        prompts=lengths.pop("prompt", np.zeros(len(some), np.int64)),  # a reward model's completions include it
        completions=tuple(lengths.values()),
        positions=model.positions,
        columns=tuple(given.train.column_names),
        statements=statements,
    )


def drawn(count: int) -> np.ndarray:
    """Numbers of the examples to tokenise: all of a few, `SAMPLE` at random of many."""
    if count <= SAMPLE:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))


def describe(size: DataSize, method: Method, limit: int | None) -> list[str]:
    """Sentences on the measured lengths, and on what a limit does to them.

    Args:
        size: The measured data.
        method: The kind of training.
        limit: `max_length`; `None` for no limit, or if completions are sampled.
    """
    of = f"{len(size.prompts):,} random of {size.examples:,}" if size.is_sample else f"all {size.examples:,}"
    what = "a prompt" if method.samples_completions else "a sequence"
    known = ", ".join(f"{name} {size.percentile(share):,}" for name, share in SHARES.items())
    found = [f"Tokens of {what} in {of} {method.unit} of {size.name}: {known}, longest {int(size.sequences.max()):,}."]
    if limit is not None and (lost := size.longer_than(limit)):
        effect = "are left out" if method.drops_long_rows else "lose their end"
        enough = f" {rounded(size.percentile(0.95)):,} would keep 95%." if lost > 0.05 else ""
        found.append(f"{lost:.1%} of the {method.unit} are longer than `max_length` {limit:,} and {effect}.{enough}")
    return found


def rounded(tokens: int) -> int:
    """The next multiple of `STEP`."""
    return -(-tokens // STEP) * STEP


def schedule(recipe: Recipe, args: Any, examples: int, tokens: float | None) -> Schedule:
    """The length of a run.

    Args:
        recipe: A loaded recipe.
        args: The trainer's configuration.
        examples: Examples of an epoch.
        tokens: Mean tokens of an example (`DataSize.counted_tokens`); of a prompt if completions are sampled.

    Raises:
        UserError: The run would take no step.
    """
    rows = Dataset.from_dict({"row": np.arange(examples)})
    steps = count_steps(recipe.method, args, rows, None)
    one = copy.copy(args)
    one.max_steps, one.num_train_epochs = -1, 1
    epochs = (
        steps / count_steps(recipe.method, one, rows, None) if args.max_steps > 0 else float(args.num_train_epochs)
    )
    if tokens is not None and recipe.method.samples_completions:
        # Each rollout is used `num_iterations` times, and its tokens are counted once.
        rollouts = steps * args.gradient_accumulation_steps / (args.steps_per_generation * args.num_iterations)
        tokens = rollouts * args.generation_batch_size * (tokens + args.max_completion_length)
    elif tokens is not None:
        tokens *= epochs * examples
    return Schedule(steps, epochs, examples, tokens)
