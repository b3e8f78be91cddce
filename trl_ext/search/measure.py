"""Measure a policy in memory on held-out data: the measure of the search, and the KL to the base."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from trl_ext.build.config import training_config
from trl_ext.checks.search_block import ACCURACY
from trl_ext.evaluation.judged import longest, pair
from trl_ext.evaluation.prompts import PromptChoice, Prompts, describe, find_prompts, fitting
from trl_ext.evaluation.rows import RowChoice, find_rows
from trl_ext.inspection.tokenise import tokenise
from trl_ext.judging.open_judge import Beside, JudgeChoice
from trl_ext.judging.scorers import prompt_ids
from trl_ext.judging.win_rate import win_rate
from trl_ext.methods import METHODS
from trl_ext.model_files import adapter
from trl_ext.pairing.group import Completion, Group
from trl_ext.pairing.held_out import SEED, log_ratios
from trl_ext.pairing.scoring import Scoring, ScoringChoice
from trl_ext.recipe import Recipe
from trl_ext.reference import switching
from trl_ext.runs import loaded
from trl_ext.search.settings import Settings
from trl_ext.support import intervals, sampling
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError
from trl_ext.support.intervals import Estimate
from trl_ext.trainers.common.out_of_memory import reported

BATCH = 64
"""Completions sampled together; halved where memory runs out."""


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        value: The measure; larger is better.
        kl: Mean log-ratio log π − log π_base of the policy's own completions, nats per completion.
        tokens: Mean length of a completion.
        ended: Share of completions with an end.
    """

    value: Estimate
    kl: Estimate
    tokens: Estimate
    ended: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Every number with `value`, `low` and `high`."""
        return {name: each._asdict() for name, each in vars(self).items()}


@dataclass
class Labelled:
    """Held-out rows with a known order: pairs, or completions with labels.

    Attributes:
        completions: The chosen ones and then the rejected ones of all pairs; or those with labels.
        is_desirable: The label of each, for those with labels; `None` for pairs.
    """

    completions: list[sampling.Completion]
    is_desirable: np.ndarray | None

    def part(self, n: int) -> Labelled:
        """The first n rows."""
        if self.is_desirable is not None:
            return Labelled(self.completions[:n], self.is_desirable[:n])
        half = len(self.completions) // 2
        return Labelled(self.completions[: min(n, half)] + self.completions[half : half + n], None)

    def estimate(self, ratios: Sequence[float]) -> Estimate:
        """Share of pairs whose chosen completion has the larger log-ratio; of labelled completions, the area under the curve."""
        found = np.array(ratios)
        if self.is_desirable is not None:
            return intervals.area_under_curve(found[self.is_desirable], found[~self.is_desirable])
        half = len(found) // 2
        return intervals.share_above(found[:half] - found[half:])

    @property
    def rows(self) -> int:
        return len(self.completions) // (1 if self.is_desirable is not None else 2)


@dataclass
class Measurer:
    """Measures policies on the same held-out data.

    Attributes:
        settings: Of the search.
        prompts: Held out; KL and rewards are measured on completions of them.
        scoring: What scores or judges completions; `None` if the measure is `accuracy`.
        labelled: Rows for `accuracy`; `None` otherwise.
        tokenizer: Of the policy.
    """

    settings: Settings
    prompts: Prompts
    scoring: Scoring | None
    labelled: Labelled | None
    tokenizer: Any
    _base: list[sampling.Completion] = field(default_factory=list)
    _opened: Any = None

    @property
    def name(self) -> str:
        """The measure in a table."""
        if self.scoring is None:
            return "AUC" if self.labelled is not None and self.labelled.is_desirable is not None else ACCURACY
        (source,) = self.scoring.sources
        return f"win rate by {source.name}" if self.scoring.compares else source.name

    def in_words(self) -> str:
        """What is measured, and on how much."""
        rows = f" and {count(self.labelled.rows, 'held-out rows')}" if self.labelled is not None else ""
        return f"Measure: {self.name}, and KL to the base, on {describe(self.prompts)}{rows}."

    def base(self, model: PeftModel, *, is_whole: bool) -> Measured:
        """The same measure of the base, which is the model with its adapter off; its KL is 0."""
        return self.measure(model, is_whole=is_whole, of_base=True)

    def measure(self, model: PeftModel, *, is_whole: bool, of_base: bool = False) -> Measured:
        """Measure a policy.

        Args:
            model: The policy. It is in evaluation mode meanwhile. Random states are left as they are.
            is_whole: On all prompts and rows, or on those of a rung.
            of_base: Measure its base instead.
        """
        n = len(self.prompts.prompts) if is_whole else self.settings.part(len(self.prompts.prompts))
        with switching.adapter_off(model) if of_base else contextlib.nullcontext():
            found = self._sample(model, n)
        ratios = [0.0] * n if of_base else log_ratios(model, self.tokenizer, found)
        return Measured(
            self._value(model, found, is_whole=is_whole, of_base=of_base),
            intervals.mean(ratios),
            intervals.mean([len(each.ids) for each in found]),
            intervals.share(sum(each.is_ended for each in found), n),
        )

    def _sample(self, model: PeftModel, n: int) -> list[sampling.Completion]:
        """A completion of each of the first n prompts, at temperature 1, with the seed of `trl-ext eval`."""
        with reported("while completions were sampled", "lower `--max_new_tokens`, or free memory on the device"):
            return sampling.sample(
                model,
                self.tokenizer,
                [prompt_ids(prompt, self.tokenizer) for prompt in self.prompts.prompts[:n]],
                seed=SEED,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=BATCH,
            )

    def _value(self, model: PeftModel, found: list[sampling.Completion], *, is_whole: bool, of_base: bool) -> Estimate:
        if self.labelled is not None:
            rows = self.labelled if is_whole else self.labelled.part(self.settings.part(self.labelled.rows))
            return rows.estimate(
                [0.0] * len(rows.completions) if of_base else log_ratios(model, self.tokenizer, rows.completions)
            )
        if self.scoring.compares:
            return Estimate(0.5, 0.5, 0.5) if of_base else self._win_rate(model, found)
        groups = [
            Group(prompt, [Completion(one.text, len(one.ids), one.is_ended)])
            for prompt, one in zip(self.prompts.prompts, found, strict=False)
        ]
        scores = [value for (value,) in self._scorer(model)(groups) if value is not None]
        if not scores:
            raise UserError(f"{self.name} gave no score to any completion. Choose another measure.")
        return intervals.score(scores)

    def _scorer(self, model: PeftModel) -> Callable[[Sequence[Group]], list[list[float | None]]]:
        """What scores; loaded once, unless it is an adapter on the policy's base."""
        if self._opened is None or self.scoring.needs_adapter:
            self._opened = self.scoring.open(self._beside(model), keep_truncated=True)
        return self._opened

    def _win_rate(self, model: PeftModel, found: list[sampling.Completion]) -> Estimate:
        """The win rate of the policy's completions against those of its base, by a judge."""
        if self._opened is None:
            (source,) = self.scoring.sources
            self._opened = source.open(self._beside(model))
        if len(self._base) < len(found):
            with switching.adapter_off(model):
                self._base = self._sample(model, len(self.prompts.prompts))
        n = len(found)
        verdicts = pair(
            self._opened, self.prompts.prompts[:n], found, self._base[:n], lambda items, total, title: items
        )
        if (rate := win_rate(verdicts[0], verdicts[1]).rate) is None:
            raise UserError(
                f"{self.name}: no verdict could be read. `trl-ext eval RUN --judge` shows the answers of a judge."
            )
        return rate

    def _beside(self, model: PeftModel) -> Beside:
        """What a source of scores may need. The policy is being trained, so it is not released."""
        return Beside(lambda: self.tokenizer, lambda: model, lambda: None, self.prompts.prompts, self.prompts.columns)


def prepare(recipe: Recipe, settings: Settings, directory: Path, log: Callable[[str], None]) -> Measurer:
    """Check the measure and find the held-out data, before weights are loaded.

    Args:
        recipe: Of any trial; all have the same model and data.
        settings: Of the search.
        directory: Of the search.
        log: Called with each message for the user.

    Raises:
        UserError: The measure or the data cannot be used, or nothing is held out.
    """
    args = training_config(recipe, directory)
    processor = loaded.processor(recipe)
    tokenizer = getattr(processor, "tokenizer", processor)
    base = adapter.base_name(recipe.get("model_name_or_path"))
    is_accuracy = settings.measure == ACCURACY
    scoring = None if is_accuracy else Scoring(ScoringChoice(judge=_judge(settings)), base)
    choice = PromptChoice(settings.dataset, settings.split, None, settings.samples)
    prompts = fitting(find_prompts(recipe, args, choice), tokenizer, longest(base, recipe), settings.max_new_tokens)
    if scoring is not None:
        scoring.check_columns([*prompts.columns])
    labelled = _labelled(recipe, args, settings, processor, prompts.statements) if is_accuracy else None
    for statement in dict.fromkeys(prompts.statements):
        log(statement)
    return Measurer(settings, prompts, scoring, labelled, tokenizer)


def _judge(settings: Settings) -> JudgeChoice:
    return JudgeChoice(
        settings.measure,
        model=settings.judge_model,
        base_url=settings.judge_base_url,
        template=settings.judge_template,
    )


def _labelled(recipe: Recipe, args: Any, settings: Settings, processor: Any, statements: list[str]) -> Labelled:
    """The held-out rows as token ids, without those that are longer than `max_length`."""
    rows = find_rows(recipe, args, RowChoice(settings.dataset, settings.split, None, settings.limit))
    statements += rows.statements
    method = METHODS["paired" if rows.is_paired else "unpaired"]
    found = tokenise(method, rows.dataset, processor, args)
    limit = recipe.effective("max_length")
    sides = method.token_columns[1:]
    kept = [
        row for row in found if not limit or all(len(row["prompt_ids"]) + len(row[side]) <= limit for side in sides)
    ]
    if not kept:
        raise UserError(
            f"No held-out row has at most {limit} tokens (`max_length`). Raise it, or choose other data with `--dataset`."
        )
    if len(kept) < len(found):
        statements.append(
            f"{count(len(found) - len(kept), 'held-out rows')} longer than {limit:,} tokens (`max_length`): left out."
        )
    completions = [sampling.Completion(row["prompt_ids"], row[side], "", True) for side in sides for row in kept]
    return Labelled(completions, None if rows.is_paired else np.array([bool(row["label"]) for row in kept]))
