"""The judge behind an API, against a server on the loopback: order, faults, retries, what is paid, and the key."""

import io
import logging
import subprocess
import sys
import threading
import time
import traceback
from itertools import islice

import pytest

from tests.judging.stub_server import MODEL, PROBE, Answer, fails, says, serving
from trl_ext.judging import api
from trl_ext.judging.api import ApiJudge
from trl_ext.judging.api_settings import ApiSettings
from trl_ext.judging.judge import Question, Verdict
from trl_ext.judging.template import Template
from trl_ext.support.errors import UserError

pytest.importorskip("openai")

KEY = "sk-not-for-anyones-eyes-0123456789"
TEMPLATE = Template("{prompt}|{first}|{second}")
FIRST, SECOND, TIE, UNCLEAR = Verdict.FIRST, Verdict.SECOND, Verdict.TIE, Verdict.UNCLEAR


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses of milliseconds, no key, and no proxy between the tests and the loopback."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(api, "MALFORMED_PAUSE", 0.01)
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def judge(tmp_path):
    """Makes a judge at a stub server, each with the same cache."""

    def make(stub, template=TEMPLATE, **settings) -> ApiJudge:
        return ApiJudge(
            ApiSettings(**{"model": MODEL, "base_url": stub.url, **settings}), template, tmp_path / "verdicts"
        )

    return make


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


# Verdicts ---------------------------------------------------------------------------------------------------


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
            in_time.append(released.wait(20))
        return prefers_good(body)

    with serving(second_waits) as stub:
        verdicts = judge(stub).verdicts(questions(2))
        assert next(verdicts) is SECOND
        released.set()
        assert next(verdicts) is FIRST
    assert in_time == [True]


@pytest.mark.parametrize("bound", [1, 3])
def test_as_many_requests_at_a_time_as_allowed_and_no_more(judge, bound):
    together = threading.Barrier(bound, timeout=20)  # nobody is answered before as many have asked

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


# Faults that pass, and faults that stay ---------------------------------------------------------------------


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
        says("[[SECOND]]", seconds=1.0),  # too late
    ],
)
def test_a_fault_that_passes_is_repaired(judge, fault):
    with serving(in_turn(fault, fault, says("[[FIRST]]"))) as stub:
        timeout = 0.5 if fault.seconds else 30.0
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
            'refuses further requests (429). It says: "no credit". Wait, lower concurrency, or add credit',
        ),
        (Answer("{not json"), "is not JSON. 2 retries did not help. Check base_url"),
        (Answer({"error": {"message": "upstream failed"}}), "reports an error: upstream failed. 2 retries"),
        (says("[[FIRST]]", seconds=1.0), "did not answer within 0.5 seconds. 2 retries did not help."),
    ],
)
def test_a_fault_that_stays_is_one_sentence_and_the_verdicts_before_it_are_kept(judge, fault, said):
    def respond(body):
        return fault if body["messages"][0]["content"].startswith("p3|") else says("[[FIRST]]")

    timeout = 0.5 if fault.seconds else 30.0
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


# check ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "answer", "said"),
    [
        ("", fails(401), "asks for a key (401). Set OPENAI_API_KEY to a key."),
        (
            KEY,
            fails(401, f"Incorrect key {KEY}"),
            "refuses the key (401). Check the key in OPENAI_API_KEY and what it may do.",
        ),
        (KEY, fails(403, f"Incorrect key {KEY}"), "refuses the key (403). Check the key"),
        (KEY, fails(404, "no such model"), "has no model 'judge-11'. Did you mean judge-1? Check model."),
        (
            KEY,
            fails(400, f"bad request of {KEY}"),
            'refuses the request (400). It says: "bad request of [key]". Check base_url',
        ),
        (
            KEY,
            Answer("<html>busy</html>", 502),
            "fails with status 502. 1 retry did not help. Run the same command again",
        ),
        (KEY, Answer("<html>a web page</html>"), "A reply of the judge's API at"),
    ],
)
def test_an_api_that_cannot_be_used_is_one_sentence_before_any_question(judge, monkeypatch, key, answer, said):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(lambda body: answer) as stub, pytest.raises(UserError) as raised:
        judge(stub, model="judge-11", retries=1).check()
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert KEY not in everything_raised(raised.value)
    assert not stub.asked


def test_an_address_without_an_api_is_told_from_an_unknown_model(judge):
    with serving(prefers_good) as stub:
        with pytest.raises(
            UserError, match=r"There is no OpenAI-compatible API at \S+, or it has no .* usually ends in /v1\."
        ):
            judge(stub, base_url=stub.url.removesuffix("/v1")).check()
        stub.respond, stub.models = lambda body: fails(404, "not a chat model"), ["judge-1"]
        with pytest.raises(
            UserError, match=r"has no chat completions of the model 'judge-1' \(404\)\. It says: \"not a chat mo"
        ):
            judge(stub).check()


def test_a_server_that_is_not_there(judge):
    with serving(prefers_good) as stub:
        pass
    with pytest.raises(
        UserError, match=r"at \S+ cannot be reached \(.*refused.*\)\. Check base_url, and that the server is ru"
    ):
        judge(stub).check()


def test_one_short_request_checks_a_working_api_and_nothing_is_checked_twice(judge):
    with serving(prefers_good) as stub:
        one = judge(stub)
        one.check()
        one.check()
        list(one.verdicts(questions(2)))
        assert [body["messages"][0]["content"] for body in stub.bodies].count(PROBE) == 1
        list(judge(stub).verdicts(questions(2)))  # all in the cache: not even that request
        assert len(stub.bodies) == 3


def test_parameters_that_a_model_does_not_take_are_left_out(judge, caplog):
    def reasoning_model(body):
        if "max_tokens" in body:
            return fails(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return fails(400, "Unsupported value: 'temperature' does not support 0.0 with this model.")
        return prefers_good(body)

    with serving(reasoning_model) as stub:
        assert list(judge(stub, max_tokens=50).verdicts(questions(2))) == [SECOND, FIRST]
    assert "does not take a temperature" in caplog.text
    assert len(stub.bodies) == 5 and stub.bodies[-1]["max_completion_tokens"] == 50


def test_a_missing_package_is_asked_for(judge, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with serving(prefers_good) as stub, pytest.raises(UserError, match=r"not installed\. Run `pip install openai`\.$"):
        judge(stub)


# What is paid -----------------------------------------------------------------------------------------------


def test_tokens_are_counted_those_of_the_cache_apart(judge):
    with serving(in_turn(says("[[FIRST]]"), says("[[TIE]]"), says("[[TIE]]", usage={}))) as stub:
        first = judge(stub)
        list(first.verdicts(questions(2)))
        # two questions and the request of `check`: 3 · 100 and 3 · 10
        assert (first.usage.new.prompt_tokens, first.usage.new.completion_tokens) == (300, 30)
        assert first.usage.cached.replies == 0
        more = judge(stub)
        list(more.verdicts(questions(3)))
    assert (more.usage.cached.prompt_tokens, more.usage.cached.completion_tokens) == (200, 20)
    assert (more.usage.new.prompt_tokens, more.usage.new.replies, more.usage.new.uncounted) == (100, 2, 1)
    assert more.usage.sentences() == [
        "Judge: 2 replies, 100 prompt tokens and 10 completion tokens (1 reply without a count).",
        "From the cache, at no cost: 2 replies, 200 prompt tokens and 20 completion tokens.",
    ]


def test_equal_questions_are_asked_once(judge):
    with serving(prefers_good) as stub:
        assert list(judge(stub).verdicts([*questions(2), *questions(2)])) == [SECOND, FIRST, SECOND, FIRST]
        assert len(stub.asked) == 2


def test_an_evaluation_that_is_left_keeps_what_it_asked_for(judge):
    with serving(lambda body: prefers_good(body)._replace(seconds=0.05)) as stub:
        left = judge(stub, concurrency=3)
        verdicts = left.verdicts(questions(20))
        assert len(list(islice(verdicts, 4))) == 4
        verdicts.close()
        sent = len(stub.asked)
        assert 4 <= sent < 20
        assert left.usage.new.prompt_tokens == 100 * (sent + 1)  # all that was paid for, and `check`
        assert list(judge(stub).verdicts(questions(20))) == [SECOND, FIRST] * 10
        assert len(stub.asked) == 20  # those in flight were waited for


KILLED = """
import sys
from trl_ext.judging.api import ApiJudge
from trl_ext.judging.api_settings import ApiSettings
from trl_ext.judging.template import Template
from trl_ext.judging.judge import Question
questions = [Question(f"p{i}", "good" if i % 2 else "bad", "bad" if i % 2 else "good") for i in range(9)]
settings = ApiSettings(model="judge-1", base_url=sys.argv[1], concurrency=1)
for done, verdict in enumerate(ApiJudge(settings, Template("{prompt}|{first}|{second}"), sys.argv[2]).verdicts(questions), 1):
    print(done, flush=True)
    if done == 5:
        sys.stdin.read()
"""


def test_a_killed_evaluation_pays_for_no_kept_verdict_twice(judge, tmp_path):
    def sixth_hangs(body):
        return prefers_good(body)._replace(seconds=5 if body["messages"][0]["content"].startswith("p5") else 0)

    with serving(sixth_hangs) as stub:
        command = [sys.executable, "-c", KILLED, stub.url, str(tmp_path / "verdicts")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert [int(process.stdout.readline()) for _ in range(5)] == [1, 2, 3, 4, 5]
        process.kill()
        process.communicate()
        stub.respond = prefers_good
        stub.asked.clear()
        continued = judge(stub)
        assert list(continued.verdicts(questions(9))) == [
            SECOND,
            FIRST,
            SECOND,
            FIRST,
            SECOND,
            FIRST,
            SECOND,
            FIRST,
            SECOND,
        ]
        assert sorted(stub.asked) == ["p5|good|bad", "p6|bad|good", "p7|good|bad", "p8|bad|good"]
        assert continued.usage.cached.replies == 5


def test_another_template_model_or_temperature_asks_again(judge):
    with serving(prefers_good) as stub:
        for settings in (
            {},
            {"template": Template("x|{first}|{prompt}{second}")},
            {"model": "judge-2"},
            {"temperature": 0.5},
        ):
            list(judge(stub, **settings).verdicts(questions(1)))
        assert len(stub.asked) == 4
        list(judge(stub, concurrency=1, timeout=50, retries=1).verdicts(questions(1)))  # these do not change a verdict
        assert len(stub.asked) == 4


# The key ----------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_appears_nowhere_else(judge, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f"  {KEY}\n")
    written = io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(written)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with serving(in_turn(says(f"{KEY} [[FIRST]]"), fails(400, KEY), fails(429, KEY), fails(500, KEY))) as stub:
            teller = judge(stub, concurrency=1, retries=1)
            with pytest.raises(UserError) as raised:
                list(teller.verdicts(questions(4)))
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert set(stub.keys) == {f"Bearer {KEY}"}
    files = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "[[FIRST]]" in files and "HTTP" in written.getvalue()
    printed = capsys.readouterr()
    told = [
        files,
        written.getvalue(),
        printed.out,
        printed.err,
        everything_raised(raised.value),
        repr(teller.settings),
    ]
    assert not [text for text in told if KEY in text]


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(judge, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with (
        serving(prefers_good) as stub,
        pytest.raises(UserError, match="OPENAI_API_KEY holds a space, a line break") as raised,
    ):
        judge(stub)
    assert key not in str(raised.value)
