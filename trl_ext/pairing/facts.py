"""Measure a set of pairs: ties, lengths, spread of the scores, repetitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from trl_ext.pairing.rows import Scored
from trl_ext.pairing.selection import Pairs, Reason
from trl_ext.support import intervals
from trl_ext.support.intervals import Estimate


def measure(scored: Sequence[Scored]) -> dict[str, Any]:
    """What a set of pairs or labelled completions is like.

    Completions of one prompt are not independent, so every estimate is a mean over prompts of the mean within the prompt.

    Returns:
        `prompts`; `prompts_with_rows`; `without`: number of prompts per reason; `rows`; `completions`; `truncated`: those without an
        end; `unscored`; `repeated`: those whose text an earlier completion of the prompt has; `score`: the mean score; `spread`:
        the standard deviation within a prompt; `range`: best minus worst; `margin`: chosen minus rejected, or desirable minus
        undesirable; `tokens` of `better` and `worse`, and their `difference`; for labels `desirable`, their number. Estimates have
        `value`, `low` and `high`, or are null where nothing is known.
    """
    groups = [each.group for each in scored]
    completions = [completion for group in groups for completion in group.completions]
    known = [[score for score in each.scores if score is not None] for each in scored]
    reasons = Counter(each.chosen.reason for each in scored if each.chosen.reason is not None)
    sides = [_sides(each) for each in scored]
    return {
        "prompts": len(scored),
        "prompts_with_rows": sum(each.chosen.reason is None for each in scored),
        "without": {reason.value: reasons[reason] for reason in Reason if reasons[reason]},
        "rows": sum(len(each.chosen[0]) for each in scored),
        **_desirable(scored),
        "completions": len(completions),
        "truncated": sum(not completion.is_ended for completion in completions),
        "unscored": sum(score is None for each in scored for score in each.scores),
        "repeated": sum(len(group.texts) - len({*group.texts}) for group in groups),
        "score": _mean(fmean(values) for values in known if values),
        "spread": _mean(_deviation(values) for values in known if len(values) > 1),
        "range": _mean(max(values) - min(values) for values in known if len(values) > 1),
        "margin": _difference(_scores_of(each, two) for each, two in zip(scored, sides, strict=True)),
        "tokens": {
            "better": _mean(
                fmean(_tokens(each, better)) for each, (better, _) in zip(scored, sides, strict=True) if better
            ),
            "worse": _mean(
                fmean(_tokens(each, worse)) for each, (_, worse) in zip(scored, sides, strict=True) if worse
            ),
            "difference": _difference(
                (_tokens(each, better), _tokens(each, worse))
                for each, (better, worse) in zip(scored, sides, strict=True)
            ),
        },
    }


def _sides(scored: Scored) -> tuple[list[int], list[int]]:
    """Positions of the chosen and of the rejected completions, as often as they are; or of desirable and undesirable ones."""
    if isinstance(scored.chosen, Pairs):
        pairs = scored.chosen.pairs
        return [better for better, _ in pairs], [worse for _, worse in pairs]
    labels = scored.chosen.labels
    return [i for i, label in labels.items() if label], [i for i, label in labels.items() if not label]


def _desirable(scored: Sequence[Scored]) -> dict[str, int]:
    labels = [label for each in scored if not isinstance(each.chosen, Pairs) for label in each.chosen.labels.values()]
    return {"desirable": sum(labels)} if labels else {}


def _scores_of(scored: Scored, sides: tuple[list[int], list[int]]) -> tuple[list[float], list[float]]:
    better, worse = ([scored.scores[i] for i in side] for side in sides)
    return better, worse


def _tokens(scored: Scored, positions: list[int]) -> list[int]:
    return [scored.group.completions[i].tokens for i in positions]


def _difference(sides: Iterable[tuple[Sequence[float], Sequence[float]]]) -> dict[str, float | None] | None:
    """Mean of the first side minus mean of the second, over the prompts that have both."""
    return _mean(fmean(better) - fmean(worse) for better, worse in sides if better and worse)


def _deviation(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _mean(values: Iterable[float]) -> dict[str, float | None] | None:
    found = [*values]
    return _plain(intervals.mean(found)) if found else None


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return estimate._asdict()
