"""A judge made of anything that scores each answer alone: the answer with the higher score wins."""

import json
from collections.abc import Callable, Iterator, Sequence

from trl_ext.judging.judge import Prompt, Question, Verdict, key

Scorer = Callable[[list[Prompt], list[str]], Sequence[float | None]]
"""Scores of answers to prompts; `None` where it does not apply. `judging.scorers` makes them."""

CHUNK = 64
"""Questions whose answers are scored together, so that verdicts come while later answers are still being scored."""


class ScoreJudge:
    """Compares the scores of two answers.

    Args:
        name: For tables and records.
        scorer: Scores answers.
        tolerance: Scores that differ by at most this much are a tie (default: 0, so only equal scores).
    """

    has_position = False

    def __init__(self, name: str, scorer: Scorer, tolerance: float = 0.0) -> None:
        self.name, self.tolerance = name, tolerance
        self._scorer = scorer
        self._scores: dict[str, float | None] = {}

    def verdicts(self, questions: Sequence[Question]) -> Iterator[Verdict]:
        """A verdict for each question; `UNCLEAR` if the scorer does not apply to an answer. No answer is scored twice."""
        for start in range(0, len(questions), CHUNK):
            chunk = questions[start : start + CHUNK]
            self._score([(question.prompt, answer) for question in chunk for answer in question[1:]])
            for prompt, first, second in chunk:
                yield self._compare(self.score(prompt, first), self.score(prompt, second))

    def score(self, prompt: Prompt, answer: str) -> float | None:
        """The score of an answer that was in a question; `None` if the scorer does not apply to it.

        Raises:
            KeyError: It was in no question.
        """
        return self._scores[_key(prompt, answer)]

    def _score(self, answers: list[tuple[Prompt, str]]) -> None:
        new = {key: each for each in answers if (key := _key(*each)) not in self._scores}
        if new:
            prompts, texts = map(list, zip(*new.values(), strict=True))
            self._scores.update(zip(new, self._scorer(prompts, texts), strict=True))

    def _compare(self, first: float | None, second: float | None) -> Verdict:
        if first is None or second is None:
            return Verdict.UNCLEAR
        if abs(first - second) <= self.tolerance:
            return Verdict.TIE
        return Verdict.FIRST if first > second else Verdict.SECOND


def _key(prompt: Prompt, answer: str) -> str:
    return json.dumps([key(prompt), answer])
