"""Tokenise and check training data before any weights are loaded.

The trainers would tokenise in their constructors, after the model was loaded. `trl_ext.trainers.preference.construction` and TRL's
reward and SFT trainers accept tokenised data, so the work is done once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import ProcessorMixin
from trl import is_conversational

from trl_ext import losses
from trl_ext.checks import launch
from trl_ext.data.examples import Examples
from trl_ext.data.thoughts import ALL, MASKED
from trl_ext.inspection import masked_thoughts, missing, parts, thoughts, token_ends, unembedded
from trl_ext.inspection.facts import gather
from trl_ext.inspection.findings import Findings
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.inspection.special_tokens import text_tokenizer
from trl_ext.inspection.tokenise import has_images, of_trainer, tokenise
from trl_ext.inspection.tokenise_images import tokenise_images
from trl_ext.inspection.truncation import limits
from trl_ext.methods import Method
from trl_ext.support.errors import UserError

STREAMED = 256
"""Rows of a stream that are checked before a run."""
WITH_IMAGES = 32
"""Examples with images that are checked: every image is opened and resized."""


class Checked(NamedTuple):
    """Tokenised examples and the findings about them.

    Attributes:
        tokenised: The examples with their columns of token ids; nothing is dropped or cut yet.
        findings: The findings about all of them.
        numbers: For each example, the number of its row in the source.
    """

    tokenised: Dataset
    findings: Findings
    numbers: np.ndarray


def check(method: Method, given: Examples, processing_class: Any, args: Any, model: ModelFiles) -> Checked:
    """Tokenise examples and count what the trainer will cut and drop.

    Args:
        method: The kind of training.
        given: The examples, not a stream. With images, only the first `WITH_IMAGES` are checked.
        processing_class: Tokenizer or processor.
        args: The trainer's configuration.
        model: What is known of the base model.

    Raises:
        UserError: A message has parts that the model cannot read, a row cannot be tokenised or holds a token without an embedding, or data
            with images is not for a loss on preferences.
    """
    dataset, numbers, make, applied = given.train, given.numbers, tokenise, limits(method, args)
    parts.refuse_unreadable(dataset, processing_class, numbers)
    if has_images(dataset):
        require_vision(processing_class)
        if not (method.has_loss and method.reads_preferences):
            raise UserError("Data with images can be checked for losses on preferences only.")
        refuse_thoughts(given)
        numbers, make = numbers[:WITH_IMAGES], tokenise_images
        dataset = dataset.select(range(len(numbers)))
        # The collator for images cuts only the end, and no example is dropped before it.
        applied = applied._replace(keep_end=False, drops_the_unscored=False)
    tokenised = make(method, dataset, processing_class, args, numbers)
    tokenised = thoughts.into_prompts(method, tokenised, processing_class, given.thoughts)
    sampled = (args.max_completion_length or 0) if method.samples_completions else 0
    tokenizer = text_tokenizer(of_trainer(method, processing_class, args))
    unembedded.refuse(method, tokenised, tokenizer, model.embeddings, numbers)
    facts = gather(method, tokenised, applied, model.stops)
    facts.flags |= missing.flags(method, dataset, tokenised, tokenizer)
    facts.thoughts = thoughts.kinds(facts, dataset, tokenised, tokenizer)
    facts.flags |= thoughts.flags(facts.thoughts, dataset, of_trainer(method, processing_class, args), given.thoughts)
    facts.flags |= token_ends.flags(method, tokenised, tokenizer, model.stops, is_conversational(dataset[0]))
    if given.thoughts == MASKED and method.reads != "prompts":
        tokenised = masked_thoughts.masked(method, tokenised, processing_class)
        facts.is_dropped |= masked_thoughts.teaches_nothing(method, tokenised, applied)

    def lacks(place: int, finding: str) -> str:
        return missing.described(method, dataset[place], tokenised[place], tokenizer, finding)

    found = Findings(facts, model.stop_tokens, model.positions, sampled, lacks, numbers)
    return Checked(tokenised, found, numbers)


def require_vision(processing_class: Any) -> None:
    """Refuse images for a model that reads text only, or whose processor tokenises nothing without images.

    Raises:
        UserError: There is a tokenizer where a processor of images is needed, or TRL's collators cannot use the processor.
    """
    if not isinstance(processing_class, ProcessorMixin):
        raise UserError(
            "The data has images (column `images` or `image`), and the model reads text only: it has a tokenizer and no processor "
            "of images. Choose a vision-language model, or remove the column."
        )
    try:
        processing_class(text=["a"], padding=True, add_special_tokens=False)  # as TRL's collators tokenise completions
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"The data has images, and TRL tokenises completions apart from the images of their prompts, which "
            f"{type(processing_class).__name__} does not do ({why}). Choose another vision-language model, or remove the column."
        ) from error


def refuse_thoughts(given: Examples) -> None:
    """Refuse to leave thoughts out of examples with images.

    Raises:
        UserError: `thoughts` asks for it.
    """
    if given.thoughts != ALL:
        raise UserError(
            f"`thoughts` is {given.thoughts}, which needs the tokens of the examples before training, and examples with images are "
            "tokenised during training. Set `thoughts: all`, or remove the images."
        )


def before_training(
    method: Method,
    given: Examples,
    processing_class: Any,
    args: Any,
    model: ModelFiles,
    statements: list[str],
    read_first: Callable[[int], Examples],
) -> Dataset | IterableDataset:
    """The training data for the trainer's constructor, tokenised if the trainer accepts that.

    Args:
        method, given, processing_class, args, model: As for `check`; `given` may be a stream.
        statements: Receives sentences for the log.
        read_first: Reads the given number of rows from the beginning of the source, for a stream.

    Raises:
        UserError: Messages cannot be read, settings exclude images, or nothing can be learned from the data. For a stream with more rows than are read
            this is only logged: its beginning may not be typical.
    """
    if isinstance(given.train, IterableDataset):
        start = f"The first {STREAMED} rows of the stream"
        try:
            findings = check(method, read_first(STREAMED), processing_class, args, model).findings
            statements += [f"{start}: {line}" for line in findings.summary()]
            findings.require_teachable()
        except UserError as error:
            if sum(1 for _ in given.train.take(STREAMED)) < STREAMED:  # these are all rows
                raise
            statements.append(f"{start}: {error}")
        return given.train
    if has_images(given.train):  # tokenised by the data loader's workers
        require_vision(processing_class)
        refuse_thoughts(given)
        parts.refuse_unreadable(given.train, processing_class, given.numbers)
        if method.cuts_rows and (
            problem := launch.refused_with_images(args, losses.get(args.loss, **args.loss_kwargs))
        ):
            raise UserError(problem)
        return given.train
    tokenised, findings, _ = check(method, given, processing_class, args, model)
    statements += findings.summary()
    findings.require_teachable()
    if method.tokenised_by is None:
        return given.train
    if findings.kept < len(tokenised):
        return tokenised.select(np.flatnonzero(~findings.facts.is_dropped))
    return tokenised
