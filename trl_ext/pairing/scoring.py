"""Score completions by reward functions, reward models and reward adapters, or by a judge that compares two of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext import demo
from trl_ext.checks import judge_source, reward_names
from trl_ext.evaluation.judged import pair
from trl_ext.judging import open_judge
from trl_ext.judging.judge import Judge
from trl_ext.judging.kept_verdicts import identity
from trl_ext.judging.open_judge import Beside, JudgeChoice
from trl_ext.judging.win_rate import prompt_scores
from trl_ext.model_files import adapter
from trl_ext.pairing import games
from trl_ext.pairing.group import Group
from trl_ext.pairing.selection import Scores, combine
from trl_ext.pairing.settings import digest
from trl_ext.support.counts import count

Scorer = Callable[[Sequence[Group]], list[list[float | None]]]
"""Scores of every completion of some groups; `None` for a completion that nothing applies to."""

AT_ONCE = 64
"""Completions that are scored together."""
GROUPS_AT_ONCE = 16
"""Prompts whose completions a judge compares together: enough questions for an API that takes several at a time."""


@dataclass(frozen=True)
class ScoringChoice:
    """The scores that the user asked for: of rewards, or of a judge.

    Attributes:
        reward_funcs: Names as in a recipe.
        reward_adapter: Folder of a reward model on the policy's base.
        weights: One per reward, the adapter's last; all 1 if not given.
        clip: Lower and upper limit of the weighted sum.
        missing_eos_penalty: Subtracted from the score of a completion without an end.
        judge: Instead of rewards.
        comparisons: Pairs of completions per prompt that a judge compares which gives no scores.
    """

    reward_funcs: tuple[str, ...] = ()
    reward_adapter: str | None = None
    weights: tuple[float, ...] | None = None
    clip: tuple[float, float] | None = None
    missing_eos_penalty: float | None = None
    judge: JudgeChoice | None = None
    comparisons: int | None = None

    @property
    def sources(self) -> list[JudgeChoice]:
        """Everything that scores, as `open_judge.prepare` takes it."""
        if self.judge is not None:
            return [self.judge]
        kinds = {"model": "reward"}  # of a name of `reward_funcs` in words of judges
        named = [
            JudgeChoice(f"{kinds.get(reward_names.parse(name).kind, 'function')}:{name}") for name in self.reward_funcs
        ]
        return named + ([JudgeChoice(f"reward:{self.reward_adapter}")] if self.reward_adapter else [])


class Scoring:
    """Sources of scores that passed every check which needs no model.

    Args:
        choice: What the user asked for.
        base: Folder or Hub name of the policy's base, which a reward adapter must share.

    Raises:
        UserError: A source cannot score; or the API of a judge cannot be reached.
    """

    def __init__(self, choice: ScoringChoice, base: str | None) -> None:
        self.choice = choice
        self.sources = open_judge.prepare(choice.sources, base)

    @property
    def compares(self) -> bool:
        """Whether a judge compares two completions instead of scoring each."""
        return any(source.scorer is None for source in self.sources)

    @property
    def needs_adapter(self) -> bool:
        """Whether a reward adapter shares the policy's base."""
        places = [judge_source.parse(each.source) for each in self.choice.sources]
        return any(found.kind == "reward" and adapter.is_in(Path(found.place).expanduser()) for found in places)

    @property
    def is_cheap(self) -> bool:
        """Whether every source is a function, which can be tried before all completions are sampled."""
        return all(source.kind == "function" for source in self.sources)

    def check_columns(self, names: Sequence[str]) -> None:
        """UserError if a reward function reads a column that the prompts do not come with."""
        for source in self.sources:
            source.check_columns(names)

    def limit(self, n: int) -> int:
        """Comparisons per prompt with n completions."""
        given = self.choice.comparisons
        return games.default_limit(n) if given is None else min(given, games.all_pairs(n))

    def facts(self, n: int) -> dict[str, Any]:
        """What scores depend on besides the completions, as plain values."""
        sources = {
            choice.source: {**each.facts, "kind": each.kind, "content": _content(choice)}
            for each, choice in zip(self.sources, self.choice.sources, strict=True)
        }
        if self.compares:
            return {"sources": sources, "comparisons": self.limit(n)}
        choice = self.choice
        return {
            "sources": sources,
            "weights": list(choice.weights or [1.0] * len(sources)),
            "clip": choice.clip and list(choice.clip),
            "missing_eos_penalty": choice.missing_eos_penalty,
        }

    def in_words(self, prompts: int, n: int) -> str:
        """How completions are scored, and the largest number of questions to a judge that compares."""
        names = " + ".join(source.name for source in self.sources)
        if not self.compares:
            return f"Scored by {names}."
        pairs, total = self.limit(n), games.all_pairs(n)
        which = f"all {total:,}" if pairs == total else f"{pairs:,} of {total:,}"
        return (
            f"{names} compares {which} pairs of {n:,} completions per prompt in both orders: at most "
            f"{count(2 * pairs * prompts, 'questions')}. Equal completions are not compared."
        )

    def open(self, beside: Beside, *, keep_truncated: bool) -> Scorer:
        """Load what scores.

        Args:
            beside: The policy, its tokenizer, and the rows of the prompts.
            keep_truncated: Whether completions without an end are compared.
        """
        if self.compares:
            (source,) = self.sources
            judge, limit = source.open(beside), self.limit
            return lambda groups: _compared(judge, groups, limit, keep_truncated=keep_truncated)
        scorers = [source.scorer(beside) for source in self.sources]
        weights = self.choice.weights or [1.0] * len(scorers)

        def score(groups: Sequence[Group]) -> list[list[float | None]]:
            prompts = [group.prompt for group in groups for _ in group.completions]
            texts = [text for group in groups for text in group.texts]
            summed = combine([scorer(prompts, texts) for scorer in scorers], weights, self.choice.clip)
            rest = iter(summed)
            return [self._penalised(group, [next(rest) for _ in group.completions]) for group in groups]

        return score

    def _penalised(self, group: Group, scores: list[float | None]) -> list[float | None]:
        penalty = self.choice.missing_eos_penalty or 0.0
        return [
            score if score is None or completion.is_ended else score - penalty
            for completion, score in zip(group.completions, scores, strict=True)
        ]


def _content(choice: JudgeChoice) -> Any:
    """What stands for the content of a source: a digest of the code of a function, names and times of the files of a model."""
    kind, place = judge_source.parse(choice.source)
    if kind == "api":
        return choice.template and digest(Path(choice.template).expanduser().read_text(encoding="utf-8"))
    if kind != "function":
        return identity(str(demo.MODEL) if place == demo.EMBEDDED else place, choice.revision)
    source = reward_names.parse(place)
    if source.kind == "file":
        return digest(Path(source.place).expanduser().read_text(encoding="utf-8"))
    file = getattr(sys.modules.get(source.place), "__file__", None)
    return (file and source.kind != "known" and digest(Path(file).read_text(encoding="utf-8"))) or None


def chunk(scoring: Scoring, n: int) -> int:
    """Prompts whose completions are scored together."""
    return GROUPS_AT_ONCE if scoring.compares else max(1, AT_ONCE // n)


def _compared(
    judge: Judge, groups: Sequence[Group], limit: Callable[[int], int], *, keep_truncated: bool
) -> list[list[float | None]]:
    """Bradley–Terry strengths of the completions of each group. Equal texts share one; truncated ones may have none."""
    players = [_players(group, keep_truncated) for group in groups]
    played = [
        (number, i, j)
        for number, positions in enumerate(players)
        for i, j in games.schedule(len(positions), limit(len(groups[number].completions)))
    ]
    first = [groups[number].completions[players[number][i]] for number, i, _ in played]
    second = [groups[number].completions[players[number][j]] for number, _, j in played]
    prompts = [groups[number].prompt for number, _, _ in played]
    verdicts, swapped, _ = pair(judge, prompts, first, second, lambda items, total, title: items)
    results: list[dict[games.Pair, float]] = [{} for _ in groups]
    for (number, i, j), score in zip(played, prompt_scores(verdicts, swapped), strict=True):
        results[number][i, j] = float(score)
    return [
        _spread(group, positions, games.scores_of(len(positions), found))
        for group, positions, found in zip(groups, players, results, strict=True)
    ]


def _players(group: Group, keep_truncated: bool) -> list[int]:
    """Positions of the different completions that are compared."""
    first: dict[str, int] = {}
    for i, completion in enumerate(group.completions):
        if completion.is_ended or keep_truncated:
            first.setdefault(completion.text, i)
    return [*first.values()]


def _spread(group: Group, positions: list[int], strengths: Scores) -> list[float | None]:
    """The strength of its text for every completion."""
    of_text = {group.completions[i].text: value for i, value in zip(positions, strengths, strict=True)}
    return [of_text.get(text) for text in group.texts]
