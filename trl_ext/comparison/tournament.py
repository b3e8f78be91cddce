"""Let a judge compare the answers of every two models of a comparison: the base and all runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trl_ext.evaluation.answers import Answer
from trl_ext.evaluation.judged import Watched, pair
from trl_ext.judging.judge import Judge, Prompt, Verdict
from trl_ext.judging.open_judge import Prepared
from trl_ext.judging.strengths import count_wins, strengths
from trl_ext.judging.win_rate import WinRate, prompt_scores, win_rate
from trl_ext.support.intervals import Estimate

Pair = tuple[str, str]


def play(
    prepared: Prepared,
    judge: Judge,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Sequence[Answer]],
    watched: Watched,
) -> dict[str, Any]:
    """A record of all comparisons by one judge.

    Args:
        prepared: The judge's name and settings.
        judge: Asked about every two models, on every prompt for which their answers differ.
        prompts: What was answered.
        answers: The answers of each model, in the order of the prompts; the base first.
        watched: Shows the progress.

    Returns:
        `judge`, `kind`, `settings`; `names`, the base first; `games`: for each pair of names its `win_rate` of the first against the
        second, `wins`, `ties`, `losses` and `unclear`; `strengths` (log-odds against `reference`) by name, or null where there is
        no finite one; `notes`: why; `position_bias` over all prompts that were asked, with `position_bias_to`, or null; `usage` of
        an API, or null.
    """
    names = [*answers]
    verdicts: dict[Pair, tuple[list[Verdict], list[Verdict] | None, list[bool]]] = {}
    for first, second in itertools.combinations(names, 2):
        title = f"verdicts of {prepared.name} on {first} and {second}"
        verdicts[first, second] = pair(judge, prompts, answers[first], answers[second], watched, title)
    rates = {names: win_rate(given, swapped) for names, (given, swapped, _) in verdicts.items()}
    scores = {names: prompt_scores(given, swapped) for names, (given, swapped, _) in verdicts.items()}
    found = strengths(names, count_wins(names, scores))
    bias = _bias([*verdicts.values()])
    usage = getattr(judge, "usage", None)
    return {
        "judge": prepared.name,
        "kind": prepared.kind,
        "settings": prepared.facts,
        "names": names,
        "games": [_game(*names, rate) for names, rate in rates.items()],
        "strengths": {name: value and value._asdict() for name, value in found.values.items()},
        "reference": found.reference,
        "notes": found.notes,
        "position_bias": bias and bias.changed._asdict(),
        "position_bias_to": bias and {"first": bias.to_first, "second": bias.to_second},
        "usage": usage and asdict(usage) | {"sentences": usage.sentences()},
    }


def _game(first: str, second: str, rate: WinRate) -> dict[str, Any]:
    return {
        "first": first,
        "second": second,
        "win_rate": rate.rate and rate.rate._asdict(),
        "wins": rate.wins,
        "ties": rate.ties,
        "losses": rate.losses,
        "unclear": rate.unclear,
    }


def _bias(verdicts: Sequence[tuple[list[Verdict], list[Verdict] | None, list[bool]]]) -> Any:
    """The position bias over all questions that were asked in both orders."""
    asked = [
        (one, other)
        for given, swapped, was_asked in verdicts
        if swapped is not None
        for one, other, is_asked in zip(given, swapped, was_asked, strict=True)
        if is_asked
    ]
    return win_rate(*map(list, zip(*asked, strict=True))).position_bias if asked else None


def rate_of(record: Mapping[str, Any], row: str, column: str) -> Estimate | None:
    """The win rate of one model against another, whichever of them was first; `None` if no verdict is clear."""
    for game in record["games"]:
        rate = game["win_rate"]
        if rate and (game["first"], game["second"]) == (row, column):
            return Estimate(**rate)
        if rate and (game["second"], game["first"]) == (row, column):
            return Estimate(1 - rate["value"], 1 - rate["high"], 1 - rate["low"])
    return None
