"""Compute log-probabilities of completions under a finished run and under its reference, as in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from trl_ext.batching.budget import LARGEST_ROW
from trl_ext.build.dtypes import precision
from trl_ext.data.golds import GOLD
from trl_ext.data.thoughts import ALL, MASKED
from trl_ext.evaluation.rows import Rows
from trl_ext.inspection import facts, masked_thoughts, thoughts
from trl_ext.inspection.tokenise import has_images, tokenise
from trl_ext.inspection.truncation import limits
from trl_ext.methods import METHODS
from trl_ext.reference import frozen_copy
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.runs.loaded import Opened
from trl_ext.support.errors import UserError
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.common import forward
from trl_ext.trainers.common.console import hushed

AT_ONCE = 256
"""Examples whose tokens are in memory together."""

IMAGES_AT_ONCE = 4
"""Examples with images in a forward pass: TRL's collator pads them, and prepares the images of each."""

AS_TRAINED = {
    "max_length", "truncation_mode", "packing", "reference_cache", "pad_token", "lora_dtype", "fused_kernels", "dataset_num_proc", "tf32",
    "trust_remote_code",
}  # fmt: skip
"""Settings of a run that affect its log-probabilities or the time they take."""


class Scored(NamedTuple):
    """A completion's log-probabilities by token, float32 of shape (C,), after truncation to `max_length` and without masked
    thoughts."""

    policy: np.ndarray
    reference: np.ndarray


class Scorer:
    """Mixin before a preference trainer that only scores and never trains.

    The data takes the same path as in training: TRL's tokenisation and truncation, packed rows where the self-check passes
    for this model and padded rows elsewhere, the run's precision, and reference log-probabilities from the cache.
    """

    def scored(self, examples: Iterable[dict]) -> Iterator[list[Scored]]:
        """Yield the scored completions of each example: chosen and rejected, or the single one."""
        examples = iter(examples)
        if self._is_vision_dataset:
            yield from self._scored_with_images(examples)
            return
        while chunk := list(islice(examples, AT_ONCE)):
            known: dict[tuple, Scored] = {}
            with self.references.kept():
                for attempt in self.retry.attempts(chunk):
                    with attempt:
                        self._score_into(known, chunk)
            for example in chunk:
                found = [known[_key(sequence)] for sequence in self.tokens.sequences([example])]
                learned = self.tokens.learned([example])
                yield found if learned is None else list(map(_only, found, learned))
        self.references.flush()

    def _scored_with_images(self, examples: Iterator[dict]) -> Iterator[list[Scored]]:
        """Collated as in training, and without the reference cache, whose keys have no images."""
        collator = self.image_rows.collator(self.data_collator, self.train_dataset)
        while chunk := list(islice(examples, IMAGES_AT_ONCE)):
            batch = self.image_rows.completed(self.runtime.to_device(collator(chunk)))
            with self.runtime.autocast(), no_grad_eval(self.model):
                reference = forward.to_arrays(self.references.run(batch))
                policy = forward.to_arrays(forward.run(self.model, batch))
            found = list(map(Scored, policy, reference))  # all chosen completions, then all rejected ones
            yield from map(
                list, zip(*(found[i : i + len(chunk)] for i in range(0, len(found), len(chunk))), strict=True)
            )

    def scored_whole(
        self, prompt_ids: list[list[int]], pairs: list[tuple[list[int], list[int]]]
    ) -> list[list[Scored]]:
        """Score two completions of each prompt, without truncation and without the reference cache.

        Args:
            prompt_ids: Token ids of a prompt for each pair.
            pairs: Token ids of the prompt's completions.
        """
        self.args.max_length, self.references.cache = None, None
        found = list(self.scored(self._examples(prompt_ids, pairs)))
        both = [scored for completions in found for scored in completions]
        return [both[i : i + 2] for i in range(0, len(both), 2)]

    def _examples(self, prompt_ids: list[list[int]], pairs: list[tuple[list[int], list[int]]]) -> Iterator[dict]:
        """Tokenised examples of these completions."""
        raise NotImplementedError

    def _score_into(self, known: dict[tuple, Scored], examples: list[dict]) -> None:
        self.references.open()
        self.rows.prepare(examples)
        with self.runtime.locally(), self.runtime.autocast(), no_grad_eval(self.model):
            rows = self.rows.cut(examples)
            self.row_objective.score_reference(examples, rows)
            for row in rows:
                batch = self.rows.collate(row)
                reference = forward.to_arrays(self.references.score(batch))
                policy = forward.to_arrays(forward.run(self.model, batch))
                known.update(zip(map(_key, batch["sequences"]), map(Scored, policy, reference), strict=True))


class PairScorer(Scorer, PairedPreferenceTrainer):
    """Scores pairs."""

    def _examples(self, prompt_ids: list[list[int]], pairs: list[tuple[list[int], list[int]]]) -> Iterator[dict]:
        for prompt, (one, other) in zip(prompt_ids, pairs, strict=True):
            yield {"prompt_ids": prompt, "chosen_ids": one, "rejected_ids": other}


class AnswerScorer(Scorer, UnpairedPreferenceTrainer):
    """Scores labelled completions."""

    def _examples(self, prompt_ids: list[list[int]], pairs: list[tuple[list[int], list[int]]]) -> Iterator[dict]:
        for prompt, pair in zip(prompt_ids, pairs, strict=True):
            for completion in pair:
                yield {"prompt_ids": prompt, "completion_ids": completion, "label": True}


def scorer(opened: Opened, rows: Rows) -> Scorer:
    """Make a scorer of the run's policy and reference. The reference is added to `opened`; the tokenised `rows` are the
    scorer's `train_dataset`.

    Raises:
        UserError: Completions cannot be scored with this adapter, or no row is left after tokenisation.
    """
    kind, config = (PairScorer, PairedPreferenceConfig) if rows.is_paired else (AnswerScorer, UnpairedPreferenceConfig)
    if opened.is_adapter:
        frozen_copy.remove(opened.model)  # of a run that is still in memory; the trainer below adds its own
    else:
        opened.add_reference()
    try:
        args = config(**_settings(opened, config, "dpo" if rows.is_paired else "apo_zero_unpaired"))
        with hushed():
            made = kind(
                model=opened.model,
                ref_model=opened.first_weights,
                args=args,
                train_dataset=_tokenised(rows, opened.processor, args),
                processing_class=opened.processor,
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    _require_rows(made.train_dataset, args)
    if opened.is_adapter:
        opened.add_reference()  # in place of the trainer's, a copy of the adapter it was given
    return made


def _tokenised(rows: Rows, processing_class: Any, args: Any) -> Any:
    """The rows as they are, which the trainer tokenises; where the run leaves out thoughts, their tokens as in training."""
    if rows.thoughts == ALL or has_images(rows.dataset) or not len(rows.dataset):
        return rows.dataset
    method = METHODS["paired" if rows.is_paired else "unpaired"]
    if GOLD in rows.dataset.column_names:
        method = method.with_gold()
    try:
        tokenised = tokenise(method, rows.dataset, processing_class, args)
    except UserError as error:
        raise UserError(str(error).replace("the training data", "the evaluation data")) from error
    tokenised = thoughts.into_prompts(method, tokenised, processing_class, rows.thoughts)
    if rows.thoughts == MASKED:
        tokenised = masked_thoughts.masked(method, tokenised, processing_class)
    is_dropped = facts.gather(method, tokenised, limits(method, args), set()).is_dropped
    kept = tokenised.select(np.flatnonzero(~is_dropped))
    _require_rows(kept, args)
    return kept


def _require_rows(tokenised: Any, args: Any) -> None:
    if not len(tokenised):
        raise UserError(
            f"No row can be evaluated: every prompt has {args.max_length} tokens (`max_length`) or more, so no completion fits."
        )


def _settings(opened: Opened, config: type, loss: str) -> dict[str, Any]:
    """Arguments of the trainer's configuration. Any `loss` that reads the reference and needs no baseline will do."""
    recipe = opened.recipe
    known = {field.name for field in dataclasses.fields(config)}
    row_tokens = recipe.get("row_tokens")
    return {
        "output_dir": str(opened.directory),
        "loss": loss,
        "report_to": "none",
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "max_length": recipe.effective("max_length"),
        "row_tokens": row_tokens if isinstance(row_tokens, int) else LARGEST_ROW,
        **{key: value for key, value in recipe.values.items() if key in AS_TRAINED & known},
        **precision(recipe).training,
    }


def _only(scored: Scored, learned: list[bool]) -> Scored:
    """The log-probabilities of the tokens that are learned."""
    return Scored(*(values[np.array(learned, bool)] for values in scored))


def _key(sequence: tuple[list[int], list[int]]) -> tuple:
    return tuple(map(tuple, sequence))
