"""What a judge behind an API is asked, and how its verdicts are read. The server is a stub on the loopback."""

import threading

import pytest

from tests.judging.api_helpers import FIRST, SECOND, TIE, UNCLEAR, in_turn, prefers_good, questions
from tests.judging.stub_server import MODEL, PROBE, Answer, says, serving

pytest.importorskip("openai")


def test_both_orders_are_asked_and_verdicts_come_in_the_order_of_the_questions(judge):
    def slow_at_first(body):
        return prefers_good(body)._replace(seconds=0.2 if body["messages"][0]["content"].startswith("p0") else 0)

    with serving(slow_at_first) as stub:
        asked = questions(6)
        assert list(judge(stub).verdicts(asked)) == [SECOND, FIRST] * 3
        assert list(judge(stub).verdicts([question.swapped() for question in asked])) == [FIRST, SECOND] * 3
        assert len(stub.asked) == 12


def test_the_parameters_that_are_sent(judge):
    with serving(prefers_good) as stub:
        list(judge(stub, max_tokens=77).verdicts(questions(1)))
        list(judge(stub, max_tokens=77, temperature=None).verdicts(questions(1)))
    with_temperature, without = stub.bodies[1], stub.bodies[-1]
    assert with_temperature == {
        "model": MODEL, "messages": [{"role": "user", "content": "p0|bad|good"}], "max_tokens": 77, "temperature": 0.0
    }  # fmt: skip
    assert "temperature" not in without


def test_verdicts_are_given_as_soon_as_they_are_known(judge):
    released, in_time = threading.Event(), []

    def second_waits(body):
        if body["messages"][0]["content"].startswith("p1"):
            in_time.append(released.wait(300))
        return prefers_good(body)

    with serving(second_waits) as stub:
        verdicts = judge(stub).verdicts(questions(2))
        assert next(verdicts) is SECOND
        released.set()
        assert next(verdicts) is FIRST
    assert in_time == [True]


@pytest.mark.parametrize("bound", [1, 3])
def test_as_many_requests_at_a_time_as_allowed_and_no_more(judge, bound):
    together = threading.Barrier(bound, timeout=300)  # nobody is answered before as many have asked

    def respond(body):
        if body["messages"][0]["content"] != PROBE:
            together.wait()
        return prefers_good(body)._replace(seconds=0.02)

    with serving(respond) as stub:
        assert len(list(judge(stub, concurrency=bound).verdicts(questions(12)))) == 12
    assert stub.most == bound


@pytest.mark.parametrize(
    "answer",
    [
        says("The first answer is better."),
        says(None),
        says("[[FIR", finish_reason="length"),
        Answer({"choices": []}),
        Answer({"choices": [{"message": None}]}),
        Answer({"choices": ["[[FIRST]]"]}),
        Answer({"choices": [{"message": {"content": {"a": 1}}}], "usage": "many"}),
    ],
)
def test_a_reply_without_the_mark_is_unclear_and_paid_once(judge, answer):
    with serving(in_turn(answer)) as stub:
        first = judge(stub)
        assert list(first.verdicts(questions(1))) == [UNCLEAR]
        again = judge(stub)
        assert list(again.verdicts(questions(1))) == [UNCLEAR]
        assert len(stub.asked) == 1
    assert first.usage.unclear == again.usage.unclear == 1
    assert first.usage.cut == ("length" in str(answer.body))


def test_text_in_parts_is_read(judge):
    parts = [{"type": "text", "text": "So "}, {"type": "text", "text": "[[TIE]]"}]
    with serving(in_turn(Answer({"choices": [{"message": {"content": parts}}]}))) as stub:
        assert list(judge(stub).verdicts(questions(1))) == [TIE]
