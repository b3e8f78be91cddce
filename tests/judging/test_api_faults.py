"""Faults of an API: what is repeated, and what ends an evaluation."""

import time

import pytest

from tests.judging.api_helpers import FIRST, TIE, UNCLEAR, in_turn, questions
from tests.judging.stub_server import Answer, fails, says, serving
from trl_ext.support.errors import UserError

pytest.importorskip("openai")

TIMEOUT = 2.0
"""Seconds. On a busy machine, replies that are sent at once take some tenths."""


def test_a_limit_of_rate_is_waited_for_as_long_as_the_server_says(judge):
    with serving(in_turn(fails(429, headers={"Retry-After": "0.4"}), says("[[FIRST]]"))) as stub:
        assert list(judge(stub).verdicts(questions(1))) == [FIRST]
    assert stub.times[-1] - stub.times[-2] >= 0.4  # the pause of its own is 0.01 s


@pytest.mark.parametrize(
    "fault",
    [
        fails(500),
        fails(503),
        Answer("{not json"),
        Answer('{"choices": [', headers={"X": "1"}),
        Answer("[1]"),
        Answer({"error": {"message": "upstream failed", "code": 502}}),  # with status 200, as some routers do
        Answer({"object": "something"}),
        says("[[SECOND]]", seconds=2 * TIMEOUT),  # too late
    ],
)
def test_a_fault_that_passes_is_repaired(judge, fault):
    with serving(in_turn(fault, fault, says("[[FIRST]]"))) as stub:
        timeout = TIMEOUT if fault.seconds else 30.0
        assert list(judge(stub, timeout=timeout, retries=2).verdicts(questions(1))) == [FIRST]
        assert len(stub.asked) == 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            fails(500, "out of memory"),
            'fails with status 500. 2 retries did not help. It says: "out of memory". Run the same',
        ),
        (
            fails(429, "no credit"),
            'refuses further requests (429). It says: "no credit". Wait, lower `judge_concurrency`, or add credit',
        ),
        (Answer("{not json"), "is not JSON. 2 retries did not help. Check `judge_base_url`"),
        (Answer({"error": {"message": "upstream failed"}}), "reports an error: upstream failed. 2 retries"),
        (says("[[FIRST]]", seconds=2 * TIMEOUT), "did not answer within 2 seconds. 2 retries did not help."),
    ],
)
def test_a_fault_that_stays_is_one_sentence_and_the_verdicts_before_it_are_kept(judge, fault, said):
    def respond(body):
        return fault if body["messages"][0]["content"].startswith("p3|") else says("[[FIRST]]")

    timeout = TIMEOUT if fault.seconds else 30.0
    with serving(respond) as stub:
        got = []
        with pytest.raises(UserError) as raised:
            for verdict in judge(stub, timeout=timeout, retries=2, concurrency=2).verdicts(questions(200)):
                got.append(verdict)
        assert said in str(raised.value) and "\n" not in str(raised.value) and stub.url in str(raised.value)
        assert got == [FIRST] * 3
        assert stub.asked.count("p3|good|bad") == 3
        paid, stub.respond = len(set(stub.asked)), lambda body: says("[[FIRST]]")
        time.sleep(0.3)
        assert len(set(stub.asked)) == paid  # nothing is paid for after the fault
        stub.asked.clear()
        assert list(judge(stub).verdicts(questions(200))) == [FIRST] * 200
        assert len(stub.asked) == 200 - (paid - 1)


def test_a_question_that_the_api_refuses_is_unclear_and_asked_again_next_time(judge, caplog):
    with serving(in_turn(says("[[FIRST]]"), fails(400, "longer than the context"), says("[[TIE]]"))) as stub:
        first = judge(stub, concurrency=1)
        assert list(first.verdicts(questions(3))) == [FIRST, UNCLEAR, TIE]
        assert "longer than the context" in caplog.text and first.usage.refused == first.usage.unclear == 1
        assert list(judge(stub).verdicts(questions(3))) == [FIRST, TIE, TIE]
        assert len(stub.asked) == 4
