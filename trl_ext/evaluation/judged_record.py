"""Turn a judge's verdicts into the record that is written to `judged-<judge>.json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from trl_ext.evaluation.answers import Answers, AnswerSampling
from trl_ext.evaluation.prompts import Prompts
from trl_ext.judging.agreement import agreement
from trl_ext.judging.judge import Verdict
from trl_ext.judging.length_control import length_controlled
from trl_ext.judging.open_judge import Prepared
from trl_ext.judging.usage import Usage
from trl_ext.judging.win_rate import prompt_scores, win_rate
from trl_ext.support import intervals
from trl_ext.support.intervals import Estimate

EXAMPLES = 32
"""Prompts with both answers and the verdict that are kept in a record."""

INTERVALS = (
    "95 %; by the score test for the win rate, by Wilson for the position bias and for prompts without a tie, by the sandwich estimate for the length-controlled "
    "win rate, by Fleiss, Cohen and Everitt for κ"
)


class Judged(NamedTuple):
    """What a judge said about the run's answers (first) against the base's (second)."""

    judge: Prepared
    verdicts: list[Verdict]
    swapped: list[Verdict] | None
    asked: list[bool]
    usage: Usage | None = None

    @property
    def scores(self) -> np.ndarray:
        """[N] of the run: 1 for a win, ½ for a tie, 0 for a loss, NaN for an unclear prompt."""
        return prompt_scores(self.verdicts, self.swapped)


def record(
    judged: Judged,
    given: Answers,
    found: Prompts,
    sampling: AnswerSampling,
    subject: dict[str, Any],
    other: Judged | None,
) -> dict[str, Any]:
    """A record for JSON; every estimate has `value`, `low` and `high`.

    `judge`, `kind`, `settings` of the judge; `run`, its `step`, and `base`; `prompts`: `source` and `n`; `sampling`: settings and seed; `win_rate` with
    the counts `wins`, `ties`, `losses`, `unclear` (prompts) and `equal` (ties that were not asked, because both answers are the
    same); `decided`: the share of wins among prompts without a tie, or null; `position_bias`, over the prompts that were asked in both orders, or null, with `position_bias_to`, the numbers of
    prompts where the judge favoured the first or the second answer; `length_controlled` or null, with `length_controlled_note`,
    the reason; `tokens` and `ended` of `base` and `tuned`; `usage`: tokens of an API, or null; `agreement` with a second judge, or
    null; `examples`: up to `EXAMPLES` of `{prompt, base, tuned, verdict}`, the verdict from the run's view.
    """
    rate = win_rate(judged.verdicts, judged.swapped)
    bias = _bias(judged)
    lengths = [[len(answer.text) for answer in each] for each in (given.tuned, given.base)]
    controlled = length_controlled(judged.scores, *lengths)
    return _plain(
        {
            "judge": judged.judge.name,
            "kind": judged.judge.kind,
            "settings": judged.judge.facts,
            **subject,
            "prompts": {"source": found.name, "n": len(given.prompts)},
            "sampling": asdict(sampling),
            "answers": given.path.name,
            "win_rate": rate.rate,
            "wins": rate.wins,
            "ties": rate.ties,
            "losses": rate.losses,
            "unclear": rate.unclear,
            "decided": intervals.share(rate.wins, rate.wins + rate.losses) if rate.wins + rate.losses else None,
            "equal": judged.asked.count(False),
            "position_bias": bias and bias.changed,
            "position_bias_to": bias and {"first": bias.to_first, "second": bias.to_second},
            "length_controlled": controlled.rate,
            "length_controlled_note": controlled.undefined,
            "length_effect": controlled.length_effect,
            "tokens": {
                name: intervals.mean([answer.tokens for answer in each])
                for name, each in (("base", given.base), ("tuned", given.tuned))
            },
            "ended": {
                name: intervals.share(sum(answer.is_ended for answer in each), len(each))
                for name, each in (("base", given.base), ("tuned", given.tuned))
            },
            "usage": judged.usage and asdict(judged.usage) | {"sentences": judged.usage.sentences()},
            "agreement": None if other is None else _agreement(judged, other),
            "examples": _examples(judged, given),
            "intervals": INTERVALS,
        }
    )


def _bias(judged: Judged) -> Any:
    """The position bias over the prompts that the judge was asked about."""
    if judged.swapped is None or not any(judged.asked):
        return None
    both = [
        [verdict for verdict, asked in zip(each, judged.asked, strict=True) if asked]
        for each in (judged.verdicts, judged.swapped)
    ]
    return win_rate(*both).position_bias


def _agreement(judged: Judged, other: Judged) -> dict[str, Any]:
    found = agreement(judged.scores, other.scores)
    return {"judge": other.judge.name, **found._asdict()}


def in_words(score: float) -> str:
    """A prompt's score as `win`, `tie`, `loss` or `unclear`."""
    if np.isnan(score):
        return "unclear"
    return "win" if score > 0.5 else "loss" if score < 0.5 else "tie"


def _examples(judged: Judged, given: Answers) -> list[dict[str, Any]]:
    rows = zip(given.prompts, given.base, given.tuned, judged.scores, strict=True)
    return [
        {"prompt": prompt, "base": base.text, "tuned": tuned.text, "verdict": in_words(score)}
        for prompt, base, tuned, score in list(rows)[:EXAMPLES]
    ]


def _plain(value: Any) -> Any:
    """The same with estimates as dictionaries."""
    if isinstance(value, Estimate):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
