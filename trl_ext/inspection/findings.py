"""Count and report findings about training examples, and refuse data that nothing can be learned from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trl_ext.inspection import nothing_left
from trl_ext.inspection.facts import Facts
from trl_ext.inspection.finding_sentences import IN_BRIEF, LACKING, SENTENCES
from trl_ext.inspection.needed_length import needed_length
from trl_ext.support.counts import are, count, every
from trl_ext.support.errors import UserError

EXAMPLES = 3
"""Examples shown for each finding."""


class Finding(NamedTuple):
    """Something that is true of some examples.

    Attributes:
        name: A key of `SENTENCES`, or "dropped"; for scripts.
        sentence: Completes "12 pairs: …".
        brief: Completes "12 …" in the summary; empty if the summary does not mention it.
        rows: Positions of the examples in the dataset.
    """

    name: str
    sentence: str
    brief: str
    rows: np.ndarray


class Lengths(NamedTuple):
    """Statistics of the number of tokens in one part of the examples that are kept."""

    mean: float
    median: float
    p95: float
    longest: int


class Findings:
    """The findings about a dataset.

    Attributes:
        facts: The facts about its examples.
        kept: Number of examples that the trainer keeps.
        found: Findings with at least one example, dropped examples first.
        details: {finding: {example: what its tokens lack}}, for the first few examples.
    """

    def __init__(
        self,
        facts: Facts,
        stops: list[str],
        context: int | None = None,
        max_new_tokens: int = 0,
        lacks: Callable[[int, str], str] | None = None,
        numbers: np.ndarray | None = None,
    ) -> None:
        """Count the examples of every finding.

        Args:
            facts: The facts about a dataset.
            stops: Tokens that end a sequence, as text.
            context: Number of positions of the model, if known.
            max_new_tokens: Number of tokens sampled after each prompt.
            lacks: Function from an example and a finding to what the tokens of the example lack.
            numbers: For each example, the number of its row in the source (default: its place).
        """
        self.facts = facts
        self.numbers = numbers
        self.kept = int((~facts.is_dropped).sum())
        limit = facts.limits.max_length
        words = {
            "limit": limit or 0,
            "stops": " or ".join(f"`{stop}`" for stop in stops),
            "context": context or 0,
            "said": nothing_left.said(facts.method),
            "leaver": "the chat template" if facts.method.completions else "the chat template or the trainer",
            "with_completion": f" plus {count(max_new_tokens, 'sampled tokens')}" if max_new_tokens else "",
        }
        flags = dict(facts.flags)
        if context is not None:
            longest = list((facts.cut or facts.lengths).values())
            flags["beyond_context"] = np.max(longest, axis=0) + np.int64(max_new_tokens) > context
        dropped = [Finding("dropped", self._why_dropped(), "", np.flatnonzero(facts.is_dropped))]
        self.found = dropped if facts.is_dropped.any() else []
        self.found += [
            Finding(name, sentence.format(**words), IN_BRIEF.get(name, "").format(**words), np.flatnonzero(rows))
            for name, sentence in SENTENCES.items()
            if name in flags and (rows := flags[name] & ~facts.is_dropped).any()
        ]
        self.details = {
            finding.name: {place: lacks(place, finding.name) for place in finding.rows[:EXAMPLES].tolist()}
            for finding in self.found
            if lacks is not None and finding.name in LACKING
        }

    @property
    def unit(self) -> str:
        return self.facts.method.unit

    def lengths(self) -> dict[str, Lengths]:
        """Lengths of the prompts and completions that are kept, before any cut, by name."""
        if not self.kept:
            return {}
        return {name: _lengths(array[~self.facts.is_dropped]) for name, array in self.facts.lengths.items()}

    def labels(self) -> tuple[int, int] | None:
        """Numbers of desirable and undesirable completions that are kept."""
        if self.facts.labels is None:
            return None
        desirable = int(self.facts.labels[~self.facts.is_dropped].sum())
        return desirable, self.kept - desirable

    def summary(self) -> list[str]:
        """The findings in two or three sentences."""
        parts = ", ".join(
            f"{name} {part.median:,.0f} / {part.p95:,.0f} / {part.longest:,}" for name, part in self.lengths().items()
        )
        sentences = [f"Tokens (median / 95 % / longest): {parts}."]
        for finding in self.found:
            if finding.name == "dropped":
                rows = len(finding.rows)
                sentences.append(
                    f"{rows:,} of {count(len(self.facts), 'training examples')} {are(rows)} dropped: {finding.sentence}."
                )
        others = [f"{len(finding.rows):,} {finding.brief}" for finding in self.found if finding.brief]
        if others:
            limit = self.facts.limits.max_length
            where = f" at `max_length` {limit:,}" if limit else ""
            sentences.append(
                f"Among {count(self.kept, self.unit)}{where}: {'; '.join(others)}. `trl-ext data` shows them."
            )
        sentences += filter(None, [needed_length(self.facts), self._an_example()])
        return sentences

    def require_teachable(self) -> None:
        """Refuse training data whose tokens teach nothing.

        Raises:
            UserError: All examples are dropped, all pairs are identical, or only one label is left.
        """
        facts, limit = self.facts, self.facts.limits.max_length
        if not self.kept:
            raise UserError(
                f"Every training example was dropped: {self._why_dropped('all')}. Raise `max_length`"
                + ("." if facts.method.drops_long_rows else ", or shorten the prompts.")
                + f" {needed_length(facts) or ''}".rstrip()
            )
        nothing_left.refuse(facts, self._an_example() or "")
        kept = ~facts.is_dropped
        if "identical" in facts.flags:
            cut = facts.flags["identical_cut"] & kept
            same = (facts.flags["identical"] | cut) & kept
            if same.sum() == self.kept and cut.any():
                raise UserError(
                    f"Chosen and rejected are identical in {every(self.kept, 'pairs')} once they are cut to {limit:,} "
                    "tokens (`max_length`), so no preference can be learned. Raise `max_length`."
                )
            if same.sum() == self.kept:
                lost = nothing_left.left_out(facts, same)
                raise UserError(
                    f"Chosen and rejected have the same tokens in {every(self.kept, 'pairs')}, so no preference can be "
                    + (
                        f"learned. The chat template leaves out {lost}. {self._an_example()} {nothing_left.REMEDY}."
                        if lost
                        else "learned. Check which columns they were read from (`dataset_columns`)."
                    )
                )
        labels = self.labels()
        if labels is not None and 0 in labels:
            only = "desirable" if labels[1] == 0 else "undesirable"
            are_dropped = facts.is_dropped.any()
            after = f"after prompts of {limit:,} tokens or more (`max_length`) were dropped, " if are_dropped else ""
            sentence = f"{after}{every(self.kept, 'completions')} {are(self.kept)} {only}"
            raise UserError(
                f"{sentence[0].upper()}{sentence[1:]}, but losses on labelled completions need both labels. Add completions "
                f"with the other label, or {'raise `max_length`' if are_dropped else 'train on pairs'}."
            )

    def _an_example(self) -> str | None:
        """A sentence about what the tokens of one example lack."""
        for found in self.details.values():
            for place, lacking in found.items():
                number = place if self.numbers is None else int(self.numbers[place])
                return f"Row {number:,}, for instance, lacks {lacking}."
        return None

    def _why_dropped(self, which: str = "") -> str:
        limit = self.facts.limits.max_length or 0
        if self.facts.method.drops_long_rows:
            whose = "in every pair, " if which else ""
            return f"{whose}chosen or rejected has more than {limit:,} tokens (`max_length`)"
        if self.facts.method.reads == "demonstrations":
            end = "last" if self.facts.limits.keep_end else "first"
            return f"none of the {end} {limit:,} tokens (`max_length`) is trained on"
        if which:
            return f"every prompt has {count(limit, 'tokens')} (`max_length`) or more"
        return f"the prompt alone has {limit:,} tokens (`max_length`) or more"


def _lengths(tokens: np.ndarray) -> Lengths:
    median, p95 = np.percentile(tokens, (50, 95))
    return Lengths(float(tokens.mean()), float(median), float(p95), int(tokens.max()))
