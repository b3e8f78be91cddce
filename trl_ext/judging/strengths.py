"""Bradley–Terry strengths of several runs from the scores of their pairwise comparisons."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from trl_ext.judging import logistic
from trl_ext.support.counts import count
from trl_ext.support.intervals import Estimate, Z


class Strengths(NamedTuple):
    """Strengths in log-odds.

    Attributes:
        values: The strength per run against the reference, with its 95 % interval: run i beats run j with probability σ(sᵢ − sⱼ).
            One unit is 400/ln 10 = 173.7 Elo points. `None` for a run without a finite strength.
        reference: The run whose strength is 0. It has no interval, because the others are measured against it.
        notes: Why runs have no finite strength, a sentence each.
    """

    values: dict[str, Estimate | None]
    reference: str
    notes: list[str]


def count_wins(names: Sequence[str], scores: Mapping[tuple[str, str], Sequence[float]]) -> np.ndarray:
    """[R, R] wins of the row's run against the column's: sums of scores, so that a tie is one half for both.

    Args:
        names: The R runs.
        scores: The scores (`prompt_scores`) of the first run of a pair against the second. NaN is left out.
    """
    place = {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for (name, other), values in scores.items():
        clear = np.asarray(values, dtype=float)
        clear = clear[~np.isnan(clear)]
        wins[place[name], place[other]] += clear.sum()
        wins[place[other], place[name]] += (1 - clear).sum()
    return wins


def strengths(names: Sequence[str], wins: np.ndarray) -> Strengths:
    """Maximise Σᵢⱼ wᵢⱼ·log σ(sᵢ − sⱼ) (Bradley and Terry 1952), with the strength of the first run, the base, fixed at 0.

    This is a logistic regression on the differences of indicators, solved by Newton steps. The intervals are ± `Z` standard errors
    from the inverse Fisher information. It takes the games as independent trials. Ties vary less than wins and losses, so with
    many ties the intervals are too wide.

    The maximum is finite if, however the runs are split into two groups, each group won something against the other (Ford 1957).
    Otherwise the largest group of runs for which this holds gets finite strengths from the games inside it: the limit of the
    likelihood while all others go to infinity. The notes name the others. If the base is not in this group, the group's first run
    is the reference.

    Args:
        names: R different runs, the base first.
        wins: [R, R] wins of the row's run against the column's; half and quarter wins are allowed. The diagonal is ignored.

    Raises:
        ValueError: `wins` has another shape, or a number that is negative or not finite.
    """
    wins = np.array(wins, dtype=float)
    if wins.shape != (len(names), len(names)):
        raise ValueError(
            f"The wins of {count(len(names), 'runs')} need a square matrix of that size, not {wins.shape}."
        )
    np.fill_diagonal(wins, 0.0)
    if not np.isfinite(wins).all() or (wins < 0).any():
        raise ValueError("Wins are finite and not negative.")
    groups = _groups(wins > 0)
    group = max(groups, key=lambda members: (len(members), 0 in members))  # the first of those of equal size
    values: dict[str, Estimate | None] = dict.fromkeys(names)
    for i, value in zip(group, _finite(wins[np.ix_(group, group)]), strict=True):
        values[names[i]] = value
    notes = _notes(names, wins, groups, group) if len(groups) > 1 else []
    return Strengths(values, names[group[0]], notes)


def _finite(wins: np.ndarray) -> list[Estimate]:
    """The strengths against the first run, where the maximum is finite."""
    runs = len(wins)
    played = [(i, j) for i, j in itertools.combinations(range(runs), 2) if wins[i, j] + wins[j, i]]
    zero = Estimate(0.0, None, None)
    if not played:
        return [zero]
    first, second = map(list, zip(*played, strict=True))
    indicators = np.eye(runs)[:, 1:]  # without the column of the reference
    games = (wins + wins.T)[first, second]
    found = logistic.fit(indicators[first] - indicators[second], wins[first, second] / games, games)
    errors = np.sqrt(np.diag(np.linalg.inv(found.information)))
    return [
        zero,
        *(
            Estimate(float(s), float(s - Z * error), float(s + Z * error))
            for s, error in zip(found.coefficients, errors, strict=True)
        ),
    ]


def _groups(won: np.ndarray) -> list[list[int]]:
    """The strongly connected components of the graph in which a run points to those it won something against."""
    reaches = won | np.eye(len(won), dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(len(won) + 1)))):
        reaches = reaches @ reaches  # paths of up to twice the length
    mutual = reaches & reaches.T
    return [[int(i) for i in members] for members in sorted({tuple(np.flatnonzero(row)) for row in mutual})]


def _notes(names: Sequence[str], wins: np.ndarray, groups: list[list[int]], reference: list[int]) -> list[str]:
    """A sentence for each group without finite strengths; the one with them is compared if it lost or won everything too."""
    found = []
    for members in groups:
        others = [i for i in range(len(names)) if i not in members]
        won = wins[np.ix_(members, others)].sum()
        lost = wins[np.ix_(others, members)].sum()
        who = _listed([names[i] for i in members])
        if members is reference and (len(members) > 1 or not (won or lost)):
            continue  # the sentences about the others tell it
        if not won and not lost:
            found.append(f"No game connects {who} with other runs.")
        elif won and lost:
            found.append(f"{who} won everything against some runs and lost everything against the others.")
        else:
            rest = "" if len(members) == 1 else " against the other runs"
            found.append(f"{who} {'won' if won else 'lost'} every game{rest}.")
    lacking = [name for i, name in enumerate(names) if i not in reference]
    found.append(
        f"{_listed(lacking)} {'has' if len(lacking) == 1 else 'have'} no finite strength against {names[reference[0]]}."
    )
    if 0 not in reference:
        found.append(f"Strengths are relative to {names[reference[0]]}, because that of {names[0]} is not finite.")
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
