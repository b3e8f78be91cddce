"""Pairs and labels from scores, against values counted by hand."""

import pytest

from trl_ext.data.formats.pairing import Pairing
from trl_ext.pairing.selection import Reason, choose_labels, choose_pairs, combine, usable

SCORES = [0.5, 1.0, 0.0, None, 1.0, 0.25]
EVERY = [0, 1, 2, 4, 5]  # the one without a score is never among them


def test_the_first_best_and_the_last_worst():
    assert choose_pairs(SCORES, EVERY, Pairing("best_worst")).pairs == [(1, 2)]
    assert choose_pairs([0.0, 1.0, 0.0], [0, 1, 2], Pairing()).pairs == [(1, 2)]


def test_all_pairs_above_a_margin():
    # Differences above ½: 1 − 0, 1 − 0, 1 − ¼, 1 − ¼. ½ − 0 and 1 − ½ are at the margin.
    found = choose_pairs(SCORES, EVERY, Pairing("all", 0.5))
    assert {*found.pairs} == {(1, 2), (4, 2), (1, 5), (4, 5)} and found.reason is None
    # Without a margin: 10 pairs, of which the two best are equal.
    assert len(choose_pairs(SCORES, EVERY, Pairing("all")).pairs) == 9


@pytest.mark.parametrize(
    ("scores", "among", "margin", "reason"),
    [
        ([1.0, 1.0], [0, 1], 0.0, Reason.EQUAL),
        ([1.0, 0.5], [0, 1], 0.5, Reason.CLOSE),
        ([1.0, 0.0], [0], 0.0, Reason.TOO_FEW),
        ([None, None], [], 0.0, Reason.TOO_FEW),
    ],
)
def test_why_a_prompt_has_no_pair(scores, among, margin, reason):
    assert choose_pairs(scores, among, Pairing("best_worst", margin)) == ([], reason)
    assert choose_pairs(scores, among, Pairing("all", margin)) == ([], reason)


def test_labels_by_the_mean_of_the_prompt():
    # Mean of ½, 1, 0, 1, ¼ is 0.55.
    assert choose_labels(SCORES, EVERY).labels == {0: False, 1: True, 2: False, 4: True, 5: False}
    # |½ − 0.55| = 0.05 is within a margin of 0.1.
    assert choose_labels(SCORES, EVERY, margin=0.1).labels == {1: True, 2: False, 4: True, 5: False}
    # A repeated completion, which is not among them, counts for the mean: (1 + 1 + 0) / 3 = ⅔ > 0.6.
    assert choose_labels([1.0, 1.0, 0.6, 0.0667], [0, 2, 3]).labels == {0: True, 2: False, 3: False}
    assert choose_labels([0.5, 0.5], [0, 1]) == ({}, Reason.EQUAL)
    assert choose_labels([0.5, 0.6], [0, 1], margin=0.2) == ({}, Reason.CLOSE)
    assert choose_labels([0.5], [0]) == ({}, Reason.TOO_FEW)


def test_labels_by_a_threshold():
    assert choose_labels(SCORES, EVERY, threshold=1.0).labels == {0: False, 1: True, 2: False, 4: True, 5: False}
    assert choose_labels([0.0, 0.0], [0, 1], threshold=1.0).labels == {0: False, 1: False}  # no tie: both are wrong
    assert choose_labels([None], [], threshold=1.0) == ({}, Reason.TOO_FEW)


def test_a_row_holds_scored_whole_and_different_completions():
    texts, scores, whole = ["a", "b", "a", "c", "d"], [1.0, None, 0.0, 2.0, 3.0], [True, True, True, False, True]
    assert usable(texts, scores, whole) == [0, 4]


def test_sources_are_weighted_and_clipped():
    scores = [[1.0, None, None], [0.5, 2.0, None]]
    assert combine(scores, [1.0, 2.0]) == [2.0, 4.0, None]
    assert combine(scores, [1.0, -2.0], clip=(-3.0, 0.5)) == [0.0, -3.0, None]
