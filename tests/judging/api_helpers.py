"""Questions for a judge behind an API, and answers of its stub server."""

import traceback

from tests.judging.stub_server import PROBE, Answer, says
from trl_ext.judging.judge import Question, Verdict
from trl_ext.judging.template import Template

KEY = "sk-not-for-anyones-eyes-0123456789"
TEMPLATE = Template("{prompt}|{first}|{second}")
FIRST, SECOND, TIE, UNCLEAR = Verdict.FIRST, Verdict.SECOND, Verdict.TIE, Verdict.UNCLEAR


def questions(count: int) -> list[Question]:
    return [Question(f"p{i}", "good" if i % 2 else "bad", "bad" if i % 2 else "good") for i in range(count)]


def prefers_good(body) -> Answer:
    _, first, *_ = [*body["messages"][0]["content"].split("|"), ""]
    return says("[[FIRST]]" if first == "good" else "[[SECOND]]")


def in_turn(*answers: Answer):
    """Questions get these answers in turn, then the last; a request of `check` is answered."""
    waiting = list(answers)
    return lambda body: (
        says("yes") if body["messages"][0]["content"] == PROBE else waiting.pop(0) if waiting[1:] else waiting[0]
    )


def everything_raised(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
