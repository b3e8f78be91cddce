"""Which requests to an API are paid: tokens are counted, and no question is paid twice."""

import subprocess
import sys
from itertools import islice

import pytest

from tests.judging.api_helpers import FIRST, SECOND, in_turn, prefers_good, questions
from tests.judging.stub_server import says, serving
from trl_ext.judging.template import Template

pytest.importorskip("openai")


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
