"""Put the answers of the base and of the tuned model side by side, those that differ first, with differing words marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trl_ext.report.differences import Pieces, both_marked

if TYPE_CHECKING:
    from trl_ext.evaluation.run_page.records import Measured

MOST = 64
"""Prompts on a page."""

Score = tuple[str, Any]
"""Name and value: a number, or the verdict of a judge."""


@dataclass
class Answers:
    """The two answers to a prompt.

    Attributes:
        prompt, base, tuned: Texts.
        base_scores, tuned_scores: Rewards; the verdicts of judges are among the tuned model's.
    """

    prompt: str
    base: str
    tuned: str
    base_scores: list[Score] = field(default_factory=list)
    tuned_scores: list[Score] = field(default_factory=list)

    @property
    def pieces(self) -> tuple[Pieces, Pieces]:
        """Both answers in pieces, each with whether it differs from the other answer."""
        return both_marked(self.base, self.tuned)

    @property
    def difference(self) -> tuple[bool, float, int]:
        """How much they differ: whether at all, by the first reward, by marked characters."""
        first = [
            next((v for _, v in scores if _is_number(v)), 0.0) for scores in (self.base_scores, self.tuned_scores)
        ]
        marked = sum(len(text) for side in self.pieces for text, differs in side if differs)
        return self.base != self.tuned, abs(first[1] - first[0]), marked


def of(measured: Sequence[Measured]) -> tuple[str, list[Answers]]:
    """Name of the weights and their answers: those of the run, or else of its newest checkpoint that has any.

    Answers that differ more come first. An answer that was kept by several records is shown once.
    """
    run, checkpoints = measured[:1], measured[1:]
    for each in (*run, *reversed(checkpoints)):
        if found := _joined(each_of(each)):
            found.sort(key=lambda answers: answers.difference, reverse=True)
            return each.name, found[:MOST]
    return "tuned", []


def side_by_side(name: str, answers: Sequence[Answers]) -> list[dict[str, Any]]:
    """The same in the form of the template: `prompt`, and `completions` with `name`, `scores` and `parts`."""
    return [
        {
            "prompt": each.prompt,
            "completions": [
                {"name": who, "scores": scores, "parts": parts}
                for who, scores, parts in zip(
                    ("base", name), (each.base_scores, each.tuned_scores), each.pieces, strict=True
                )
            ],
        }
        for each in answers
    ]


def each_of(measured: Measured) -> Iterator[Answers]:
    """The answers in its records, one after the other."""
    for record in measured.evaluations:
        examples = (record.get("sampled") or {}).get("examples") or {"base": [], "tuned": []}
        for base, tuned in zip(examples["base"], examples["tuned"], strict=False):
            scores = (list((example.get("scores") or {}).items()) for example in (base, tuned))
            yield Answers(_text(base["prompt"]), base["text"], tuned["text"], *scores)
    for record in measured.judged:
        for example in record.get("examples") or []:
            verdict = [(record["judge"], str(example["verdict"]))] if example.get("verdict") else []
            yield Answers(_text(example["prompt"]), _text(example["base"]), _text(example["tuned"]), [], verdict)


def _joined(answers: Iterator[Answers]) -> list[Answers]:
    """One of each pair of texts, with the scores of all."""
    found: dict[tuple[str, str, str], Answers] = {}
    for each in answers:
        kept = found.setdefault((each.prompt, each.base, each.tuned), each)
        if kept is not each:
            kept.base_scores += each.base_scores
            kept.tuned_scores += each.tuned_scores
    return list(found.values())


def _text(value: Any) -> str:
    """A text, or a conversation written out: the content of a single message, else each with its role."""
    if isinstance(value, Mapping):
        return _text(value.get("content", value.get("text")))
    if not isinstance(value, list):
        return "" if value is None else str(value)
    if len(value) == 1 or not all(isinstance(each, Mapping) and "role" in each for each in value):
        return "\n".join(map(_text, value))
    return "\n\n".join(f"{message['role']}: {_text(message)}" for message in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
