"""Verdicts are read from the asked-for mark at the end, and from nothing else."""

import pytest

from trl_ext.judging.judge import Verdict
from trl_ext.judging.mark import read_verdict


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("The first is right.\n[[FIRST]]", Verdict.FIRST),
        ("[[SECOND]]\n", Verdict.SECOND),
        ("Both are wrong. **[[TIE]]**", Verdict.TIE),
        ("`[[TIE]]`.", Verdict.TIE),
        ("[[FIRST]], because it is right: [[FIRST]]", Verdict.FIRST),
        ("<think>[[FIRST]]? No.</think>\n[[SECOND]]", Verdict.SECOND),
        ("<think>First? [[FIRST]]", Verdict.UNCLEAR),  # cut while it thought
        ("The first answer is better.", Verdict.UNCLEAR),
        ("FIRST", Verdict.UNCLEAR),
        ("[FIRST]", Verdict.UNCLEAR),
        ("[[first]]", Verdict.UNCLEAR),
        ("[[A]]", Verdict.UNCLEAR),
        ("[[FIRST]] is what I would say if it were not wrong.", Verdict.UNCLEAR),
        ("Not [[FIRST]] but [[SECOND]]", Verdict.UNCLEAR),
        (
            "[[FIRST]] if the first answer is better\n[[SECOND]] if the second answer is better\n[[TIE]]",
            Verdict.UNCLEAR,
        ),
        ("", Verdict.UNCLEAR),
    ],
)
def test_a_verdict_is_read_and_never_guessed(words, verdict):
    assert read_verdict(words) is verdict
