"""What the facts of a dataset come to: counts in sentences, and a refusal where nothing can be learned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trl_ext.data.counts import are, count, every
from trl_ext.inspection.facts import Facts
from trl_ext.support.errors import UserError

SENTENCES = {
    "prompt_cut": "the prompt loses its beginning, `truncation_mode: keep_end` leaving {limit:,} tokens (`max_length`)",
    "chosen_cut": "the chosen answer is cut, prompt and answer being longer than {limit:,} tokens (`max_length`)",
    "rejected_cut": "the rejected answer is cut, prompt and answer being longer than {limit:,} tokens (`max_length`)",
    "completion_cut": "the answer is cut, prompt and answer being longer than {limit:,} tokens (`max_length`)",
    "identical_cut": "chosen and rejected differ only in what `max_length` cuts off, so they teach no preference",
    "identical": "chosen and rejected are the same tokens, so they teach no preference",
    "eos_lost": "the cut takes an answer's end-of-sequence token, so it does not teach to stop",
    "no_eos": "an answer does not end with {stops}, as neither the data nor the chat template adds it, so it does not "
    "teach to stop",
    "empty": "the answer is empty, which teaches the model to say nothing",
    "contradictory": "the same answer to the same prompt is labelled desirable and undesirable",
    "duplicate": "the same tokens as an earlier row",
    "beyond_context": "longer than the model's {context:,} positions{with_completion}",
}
"""What may be true of an example the trainer keeps; each completes "12 pairs: …"."""

IN_BRIEF = {
    "prompt_cut": "with the prompt's beginning cut off",
    "chosen_cut": "with the chosen answer cut",
    "rejected_cut": "with the rejected answer cut",
    "completion_cut": "with the answer cut",
    "identical_cut": "with answers that differ only beyond the cut, teaching no preference",
    "eos_lost": "with an end-of-sequence token lost to the cut",
    "no_eos": "with an answer that does not end with {stops}",
    "empty": "with an empty answer",
    "contradictory": "labelled desirable and undesirable",
    "beyond_context": "longer than the model's {context:,} positions{with_completion}",
}
"""What of it a run says beforehand, after any number; the rest was said when the data was read."""


class Finding(NamedTuple):
    """Something true of some examples.

    Attributes:
        name: For scripts: a key of `SENTENCES`, or "dropped".
        sentence: Completes "12 pairs: …".
        brief: Completes "12 …", for a line of several findings; empty for what is not said again.
        rows: Places of the examples in the dataset.
    """

    name: str
    sentence: str
    brief: str
    rows: np.ndarray


class Lengths(NamedTuple):
    """Tokens of a part of the examples kept."""

    mean: float
    median: float
    p95: float
    longest: int


class Findings:
    """What is to be said of a dataset.

    Attributes:
        facts: What it was reduced to.
        kept: Examples that the trainer keeps.
        found: Everything that is true of at least one example, what is left out first.
    """

    def __init__(self, facts: Facts, stops: list[str], context: int | None = None, max_new_tokens: int = 0) -> None:
        """Count.

        Args:
            facts: What a dataset was reduced to.
            stops: Tokens that end a sequence, as text.
            context: Positions the model has, if known.
            max_new_tokens: Tokens to be sampled after a prompt.
        """
        self.facts = facts
        self.kept = int((~facts.is_dropped).sum())
        limit = facts.limits.max_length
        words = {
            "limit": limit or 0,
            "stops": " or ".join(f"`{stop}`" for stop in stops),
            "context": context or 0,
            "with_completion": f" together with {max_new_tokens:,} sampled tokens" if max_new_tokens else "",
        }
        flags = dict(facts.flags)
        if context is not None:
            longest = list((facts.cut or facts.lengths).values())
            flags["beyond_context"] = np.max(longest, axis=0) + np.int64(max_new_tokens) > context
        left_out = [Finding("dropped", self._why_dropped(), "", np.flatnonzero(facts.is_dropped))]
        self.found = left_out if facts.is_dropped.any() else []
        self.found += [
            Finding(name, sentence.format(**words), IN_BRIEF.get(name, "").format(**words), np.flatnonzero(rows))
            for name, sentence in SENTENCES.items()
            if name in flags and (rows := flags[name] & ~facts.is_dropped).any()
        ]

    @property
    def unit(self) -> str:
        return self.facts.method.unit

    def lengths(self) -> dict[str, Lengths]:
        """Tokens before any cut of the prompts and answers kept, by name."""
        if not self.kept:
            return {}
        return {name: _lengths(array[~self.facts.is_dropped]) for name, array in self.facts.lengths.items()}

    def labels(self) -> tuple[int, int] | None:
        """Desirable and undesirable answers among those kept."""
        if self.facts.labels is None:
            return None
        desirable = int(self.facts.labels[~self.facts.is_dropped].sum())
        return desirable, self.kept - desirable

    def summary(self) -> list[str]:
        """The findings in two or three sentences."""
        parts = ", ".join(
            f"{name} {part.median:,.0f} / {part.p95:,.0f} / {part.longest:,}" for name, part in self.lengths().items()
        )
        said = [f"Tokens (median / 95 % / longest): {parts}."]
        for finding in self.found:
            if finding.name == "dropped":
                rows = len(finding.rows)
                said.append(
                    f"{rows:,} of {len(self.facts):,} training examples {are(rows)} left out: {finding.sentence}."
                )
        others = [f"{len(finding.rows):,} {finding.brief}" for finding in self.found if finding.brief]
        if others:
            limit = self.facts.limits.max_length
            where = f" at `max_length` {limit:,}" if limit else ""
            said.append(f"Of {count(self.kept, self.unit)}{where}: {'; '.join(others)}. `trl-ext data` shows which.")
        return said

    def require_teachable(self) -> None:
        """Refuse training data that leaves nothing to learn from once it is tokens.

        Raises:
            UserError: Everything is left out, all pairs are identical, or one label only is left.
        """
        facts, limit = self.facts, self.facts.limits.max_length
        if not self.kept:
            raise UserError(
                f"Every training example was dropped: {self._why_dropped('all')}. Raise `max_length`"
                + ("." if facts.method.drops_long_rows else ", or shorten the prompts.")
            )
        kept = ~facts.is_dropped
        if "identical" in facts.flags:
            cut = facts.flags["identical_cut"] & kept
            same = (facts.flags["identical"] | cut) & kept
            if same.sum() == self.kept and cut.any():
                raise UserError(
                    f"Chosen and rejected are the same in {every(self.kept, 'pairs')} once they are cut to {limit:,} "
                    "tokens (`max_length`), so no preference can be learned: raise `max_length`."
                )
            if same.sum() == self.kept:
                raise UserError(
                    f"Chosen and rejected are the same tokens in {every(self.kept, 'pairs')}, so no preference can be "
                    "learned: check which columns they were read from (`dataset_columns`)."
                )
        labels = self.labels()
        if labels is not None and 0 in labels:
            only = "desirable" if labels[1] == 0 else "undesirable"
            left = f" that prompts of {limit:,} tokens or more (`max_length`) leave" if facts.is_dropped.any() else ""
            all_are = every(self.kept, "answers").capitalize()
            raise UserError(
                f"{all_are}{left} {are(self.kept)} {only}; losses on single answers need both labels. Add the "
                f"missing class, or {'raise `max_length`' if left else 'train on pairs'}."
            )

    def _why_dropped(self, which: str = "") -> str:
        limit = self.facts.limits.max_length or 0
        if self.facts.method.drops_long_rows:
            whose = "in all of them, " if which else ""
            return f"{whose}chosen or rejected has more than {limit} tokens (`max_length`)"
        if self.facts.method.reads == "demonstrations":
            end = "last" if self.facts.limits.keep_end else "first"
            return f"none of the {end} {limit} tokens (`max_length`) is one to learn from"
        if which:
            return f"all prompts have {limit} tokens or more"
        return f"the prompt alone has {limit} tokens (`max_length`) or more"


def _lengths(tokens: np.ndarray) -> Lengths:
    median, p95 = np.percentile(tokens, (50, 95))
    return Lengths(float(tokens.mean()), float(median), float(p95), int(tokens.max()))
