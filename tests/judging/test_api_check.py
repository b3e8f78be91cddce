"""What is found out about an API before anything is sampled."""

import sys

import pytest

from tests.judging.api_helpers import FIRST, KEY, SECOND, everything_raised, prefers_good, questions
from tests.judging.stub_server import PROBE, Answer, fails, serving
from trl_ext.support.errors import UserError

pytest.importorskip("openai")


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
        (KEY, fails(404, "no such model"), "has no model 'judge-11'. Did you mean judge-1? Check `judge_model`."),
        (
            KEY,
            fails(400, f"bad request of {KEY}"),
            'refuses the request (400). It says: "bad request of [key]". Check `judge_base_url`',
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
        UserError,
        match=r"at \S+ cannot be reached \(.*refused.*\)\. Check `judge_base_url`, and that the server is ru",
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
