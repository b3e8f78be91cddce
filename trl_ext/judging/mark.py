"""Read a verdict from what a judge wrote. The judge is asked to end with one of three marks."""

import re

from trl_ext.checks.judge_template import FIRST, SECOND, TIE
from trl_ext.judging.judge import Verdict

MARKS = {FIRST: Verdict.FIRST, SECOND: Verdict.SECOND, TIE: Verdict.TIE}

_MARK = re.compile("|".join(map(re.escape, MARKS)))
_AFTER = re.compile(r"[\s*_`.]*")
"""What may follow the mark: white space, and the other half of Markdown around it."""


def read_verdict(words: str) -> Verdict:
    """The verdict whose mark ends the text; `UNCLEAR` if no mark ends it or if the text has two different marks.

    Thoughts in `<think>` are not part of the answer.
    """
    answer = _without_thoughts(words)
    marks = list(_MARK.finditer(answer))
    if len({mark.group() for mark in marks}) != 1 or not _AFTER.fullmatch(answer, marks[-1].end()):
        return Verdict.UNCLEAR
    return MARKS[marks[-1].group()]


def _without_thoughts(words: str) -> str:
    """The text after the last `</think>`; nothing of thoughts that were cut before their end."""
    _, end, answer = words.rpartition("</think>")
    return answer if end else words.partition("<think>")[0]
