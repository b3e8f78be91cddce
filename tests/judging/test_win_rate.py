"""Win rates and position bias, counted by hand."""

import numpy as np
import pytest

from trl_ext.judging.judge import Verdict
from trl_ext.judging.win_rate import prompt_scores, unclear_note, win_rate
from trl_ext.support import intervals

FIRST, SECOND, TIE, UNCLEAR = Verdict.FIRST, Verdict.SECOND, Verdict.TIE, Verdict.UNCLEAR


def test_each_pair_of_verdicts_has_its_score():
    # In the other order B is first: SECOND there is a win of A.
    cases = {
        (FIRST, SECOND): 1,
        (FIRST, TIE): 0.75,
        (TIE, SECOND): 0.75,
        (FIRST, FIRST): 0.5,
        (SECOND, SECOND): 0.5,
        (TIE, TIE): 0.5,
        (SECOND, TIE): 0.25,
        (TIE, FIRST): 0.25,
        (SECOND, FIRST): 0,
    }
    verdicts, swapped = zip(*cases, strict=True)
    assert list(prompt_scores(verdicts, swapped)) == list(cases.values())
    found = win_rate(verdicts, swapped)
    assert (found.wins, found.ties, found.losses, found.unclear) == (3, 3, 3, 0)
    assert found.rate.value == 0.5
    # Six of nine change with the order. The first position gains from FIRST/FIRST, FIRST/TIE and TIE/FIRST.
    assert found.position_bias.changed == intervals.share(6, 9)
    assert (found.position_bias.to_first, found.position_bias.to_second) == (3, 3)


@pytest.mark.parametrize(("always", "ways"), [(FIRST, (10, 0)), (SECOND, (0, 10))])
def test_a_judge_that_looks_at_the_position_alone(always, ways):
    found = win_rate([always] * 10, [always] * 10)
    assert (found.wins, found.ties, found.losses, found.rate.value) == (0, 10, 0, 0.5)
    assert found.position_bias.changed.value == 1
    assert found.position_bias[1:] == ways


def test_equal_policies_tie_everywhere():
    found = win_rate([TIE] * 40, [TIE] * 40)
    assert (found.wins, found.ties, found.losses) == (0, 40, 0)
    assert found.rate.low < found.rate.value == 0.5 < found.rate.high
    assert found.position_bias.changed.value == 0


def test_a_judge_asked_in_one_order_has_no_position_bias():
    found = win_rate([FIRST, FIRST, TIE, SECOND])
    assert (found.wins, found.ties, found.losses, found.rate.value, found.position_bias) == (2, 1, 1, 2.5 / 4, None)


def test_an_unclear_verdict_in_either_order_leaves_the_prompt_out():
    verdicts, swapped = [FIRST, UNCLEAR, SECOND, UNCLEAR], [SECOND, FIRST, UNCLEAR, UNCLEAR]
    found = win_rate(verdicts, swapped)
    assert (found.wins, found.ties, found.losses) == (1, 0, 0)
    assert (found.unclear, found.unclear_verdicts) == (3, 4)
    assert np.isnan(prompt_scores(verdicts, swapped)).tolist() == [False, True, True, True]
    assert unclear_note(found) == "3 prompts are not counted: no verdict could be read from 4 answers of the judge."
    assert unclear_note(win_rate([FIRST])) == ""
    one = win_rate([FIRST, UNCLEAR])
    assert unclear_note(one) == "1 prompt is not counted: no verdict could be read from 1 answer of the judge."


def test_without_a_clear_verdict_there_is_no_rate():
    for found in (win_rate([UNCLEAR] * 2, [FIRST] * 2), win_rate([], [])):
        assert found.rate is None and found.position_bias is None


def test_exchanging_the_sides_mirrors_the_result():
    generator = np.random.default_rng(0)
    verdicts, swapped = (list(generator.choice([FIRST, SECOND, TIE], 30, p=[0.5, 0.2, 0.3])) for _ in range(2))
    found, mirrored = win_rate(verdicts, swapped), win_rate(swapped, verdicts)
    assert (found.wins, found.losses) == (mirrored.losses, mirrored.wins)
    assert found.rate.value == pytest.approx(1 - mirrored.rate.value)
    assert found.position_bias == mirrored.position_bias


def test_orders_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different numbers of verdicts: 2 and 1"):
        win_rate([FIRST, FIRST], [FIRST])
