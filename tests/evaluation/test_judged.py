"""`trl-ext eval RUN --judge`: hand-counted numbers from prescribed answers, what is kept, and what is refused before sampling."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import finished_runs
from tests.judging.stub_server import MODEL, fails, says, serving
from trl_ext.cli import main
from trl_ext.evaluation import answers
from trl_ext.evaluation.answers import AnswerSampling

SHORT = ("--max_new_tokens", "8")
SAMPLING = AnswerSampling(max_new_tokens=8)

# Rewards by the true reward (share of positive words): base, tuned.
GIVEN = {
    "Review the hotel.": ("It was awful.", "It was lovely."),  # 0, 1: a win
    "Review the bridge.": ("It was lovely.", "It was awful. It was lovely."),  # 1, ½: a loss
    "Review the garden.": ("It was lovely.", "It was lovely."),  # the same answer: a tie, not asked
    "Review the museum.": ("It was lovely.", "It was really lovely."),  # 1, 1: a tie
    "Review the theatre.": ("It was dreadful.", "It was dreadful. It was lovely."),  # 0, ½: a win
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished_runs.leave(tmp_path_factory.mktemp("runs") / "run", "embedded", scale=0.3, max_length=256)


@pytest.fixture
def run(made):
    """A run without records or answers of another test."""
    for path in [*made.glob("samples-*"), *made.glob("judged-*")]:
        path.unlink()
    return made


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": _chat(prompt)}) + "\n" for prompt in GIVEN))
    return str(path)


@pytest.fixture
def given(run, prompts, monkeypatch):
    """The answers of `GIVEN`, as if they had been sampled before. Sampling is an error."""
    keep(run, GIVEN)
    monkeypatch.setattr(answers, "sample", None)
    return run


def keep(run: Path, texts: dict[str, tuple[str, str]]) -> None:
    entries = [
        (_chat(prompt), tuple(answers.Answer(text, len(text.split()), True) for text in both))
        for prompt, both in texts.items()
    ]
    answers._append(answers.path_of(run, SAMPLING), entries)


def _chat(prompt: str) -> list[dict]:
    return [{"role": "user", "content": prompt}]


def judged(run: Path, name: str) -> dict:
    return json.loads((run / f"judged-{name}.json").read_text())


def evaluate(run: Path, prompts: str, *words: str) -> int:
    return main(["eval", str(run), "--prompts", prompts, *SHORT, *words])


def test_numbers_by_the_true_reward_are_those_counted_by_hand(given, prompts, capsys):
    assert evaluate(given, prompts, "--judge", "sentiment", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == judged(given, "sentiment")
    assert [found[name] for name in ("wins", "ties", "losses", "unclear", "equal")] == [2, 2, 1, 0, 1]
    assert found["win_rate"]["value"] == pytest.approx((2 + 2 / 2) / 5)
    assert found["win_rate"]["low"] < 0.5 < found["win_rate"]["high"]
    assert found["decided"]["value"] == pytest.approx(2 / 3)
    assert found["position_bias"] is None and found["usage"] is None and found["agreement"] is None
    assert [found["tokens"][who]["value"] for who in ("base", "tuned")] == pytest.approx(
        [15 / 5, (3 + 6 + 3 + 4 + 6) / 5]
    )
    assert [each["verdict"] for each in found["examples"]] == ["win", "loss", "tie", "tie", "win"]
    assert found["examples"][0] == {
        "prompt": _chat("Review the hotel."), "base": "It was awful.", "tuned": "It was lovely.", "verdict": "win",
    }  # fmt: skip
    assert found["prompts"] == {"source": "prompts-train", "n": 5}
    assert found["sampling"] == {"max_new_tokens": 8, "temperature": 1.0, "seed": 0}


def test_a_judge_that_always_says_first_has_position_bias_1_and_win_rate_one_half(given, prompts, capsys):
    with serving(lambda body: says("[[FIRST]]")) as stub:
        assert evaluate(given, prompts, "--judge", stub.url, "--judge_model", MODEL) == 0
    found = judged(given, MODEL)
    assert found["win_rate"]["value"] == 0.5 and found["ties"] == 5
    assert found["position_bias"]["value"] == 1 and found["position_bias_to"] == {"first": 4, "second": 0}
    assert len(stub.asked) == 2 * 4  # both orders of four prompts; equal answers are not asked about
    new = found["usage"]["new"]
    assert (new["replies"], new["prompt_tokens"], new["completion_tokens"]) == (9, 900, 90)  # with that of the check
    printed = capsys.readouterr().out
    assert "The judge favoured the answer read first on 4 prompts." in printed
    assert "Judge: 9 replies, 900 prompt tokens and 90 completion tokens." in printed


def test_an_honest_judge_without_bias_and_words_without_a_verdict(given, prompts):
    def prefer_lovely(body):
        text = body["messages"][0]["content"]
        if "museum" in text:
            return says("Both are fine.")  # no verdict
        first, _, second = text.partition("=== Second answer ===")
        return says("[[FIRST]]" if first.count("lovely") > second.count("lovely") else "[[SECOND]]")

    with serving(prefer_lovely) as stub:
        assert evaluate(given, prompts, "--judge", f"api:{MODEL}", "--judge_base_url", stub.url) == 0
    found = judged(given, MODEL)
    assert found["position_bias"]["value"] == pytest.approx(1 / 3)  # of the bridge: equally many on both sides
    assert [found[name] for name in ("wins", "ties", "losses", "unclear")] == [2, 2, 0, 1]
    assert [each["verdict"] for each in found["examples"]] == ["win", "tie", "tie", "unclear", "win"]


def test_two_judges_and_their_agreement(given, prompts, tmp_path, capsys):
    (tmp_path / "long.py").write_text(
        "def longer(completions, **kwargs):\n    return [len(c[-1]['content']) for c in completions]\n"
    )
    assert evaluate(given, prompts, "--judge", "sentiment", "--judge", f"{tmp_path}/long.py") == 0
    # By length: win (14 > 13 characters), win, tie, win, win. By reward: win, loss, tie, tie, win. Equal on 3 of 5.
    found, other = judged(given, "sentiment"), judged(given, "longer")
    assert found["agreement"]["judge"] == "longer" and other["agreement"]["judge"] == "sentiment"
    assert found["agreement"]["agreed"]["value"] == pytest.approx(3 / 5)
    chance = (2 * 4 + 2 * 1 + 1 * 0) / 25  # wins, ties, losses of both
    assert found["agreement"]["kappa"]["value"] == pytest.approx((3 / 5 - chance) / (1 - chance))
    assert "The judges agree on 60" in capsys.readouterr().out


def test_a_reward_function_gets_the_columns_of_the_prompts(given, tmp_path, capsys):
    (tmp_path / "exact.py").write_text(
        "def exact(completions, solution, **kwargs):\n"
        "    return [float(c[-1]['content'] == s) for c, s in zip(completions, solution)]\n"
    )
    solutions = [{"prompt": _chat(prompt), "solution": tuned} for prompt, (_, tuned) in GIVEN.items()]
    (tmp_path / "solved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solutions))
    assert evaluate(given, f"{tmp_path}/solved.jsonl", "--judge", f"{tmp_path}/exact.py") == 0
    assert [judged(given, "exact")[name] for name in ("wins", "ties", "losses")] == [4, 1, 0]
    unsolved = [{"prompt": _chat(prompt)} for prompt in GIVEN]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unsolved))
    assert evaluate(given, f"{tmp_path}/plain.jsonl", "--judge", f"{tmp_path}/exact.py") == 2
    assert "The judge exact reads `solution`, which the prompts do not come with." in capsys.readouterr().err


def test_the_verdicts_of_a_model_are_kept(given, prompts, monkeypatch):
    from trl_ext.judging.causal_model import CausalModelJudge

    assert evaluate(given, prompts, "--judge", "embedded") == 0
    before = judged(given, "embedded")
    assert before["kind"] == "model" and before["position_bias"] is not None
    monkeypatch.setattr(CausalModelJudge, "verdicts", None)
    assert evaluate(given, prompts, "--judge", "embedded") == 0
    assert judged(given, "embedded") == before


def test_ctrl_c_keeps_the_verdicts_and_the_same_command_continues(given, prompts, capsys):
    def interrupting(body):
        if len(stub.asked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return says("[[SECOND]]")

    words = ("--judge_model", MODEL, "--judge_concurrency", "1")
    with serving(interrupting) as stub:
        assert evaluate(given, prompts, "--judge", stub.url, *words) == 130
        error = capsys.readouterr().err
        assert "of 8 verdicts of judge-1" in error and "Run the same command again to continue." in error
        assert not (given / f"judged-{MODEL}.json").exists()
        paid = [*stub.asked]
        stub.respond = lambda body: says("[[SECOND]]")
        assert evaluate(given, prompts, "--judge", stub.url, *words) == 0
        assert 3 <= len(paid) < 8
        assert len(stub.asked) == len({*stub.asked}) == 8  # nothing was paid for twice
    assert judged(given, MODEL)["usage"]["cached"]["replies"] == len(paid)


def test_a_killed_evaluation_continues_without_a_second_charge(given, prompts):
    arrived = threading.Event()

    def stalling(body):
        if len(stub.asked) < 4:
            return says("[[SECOND]]")
        arrived.set()
        return says("[[SECOND]]", seconds=60)

    with serving(stalling) as stub:
        words = ["--judge", stub.url, "--judge_model", MODEL, "--judge_concurrency", "1"]
        command = [sys.executable, "-m", "trl_ext", "eval", str(given), "--prompts", prompts, *SHORT, *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert arrived.wait(300)
        finally:
            process.kill()
            process.wait()
        paid = stub.asked[:3]
        stub.respond = lambda body: says("[[SECOND]]")
        assert evaluate(given, prompts, *words) == 0
        assert len(stub.asked) == 8 + 1 and len({*stub.asked}) == 8  # only the question in flight was asked again
        assert not {*paid} & {*stub.asked[4:]}
    found = judged(given, MODEL)
    assert found["usage"]["cached"]["replies"] == 3 and found["position_bias"]["value"] == 1


def test_answers_are_sampled_once_and_ctrl_c_keeps_them(run, prompts, monkeypatch, capsys):
    sampled = []

    def sample(model, tokenizer, rows, **settings):
        if len(sampled) == 6:
            raise KeyboardInterrupt
        sampled.extend(rows)
        return original(model, tokenizer, rows, **settings)

    original = answers.sample
    monkeypatch.setattr(answers, "BATCH", 2)
    monkeypatch.setattr(answers, "sample", sample)
    assert evaluate(run, prompts, "--judge", "sentiment") == 130
    assert "2 of 5 answers of the run and its base" in capsys.readouterr().err
    (path,) = run.glob("samples-*.jsonl")
    assert len(answers.kept(path)) == 2
    with path.open("a") as file:
        file.write('{"prompt": "torn')
    sampled.clear()
    assert evaluate(run, prompts, "--judge", "sentiment") == 0
    assert len(sampled) == 2 * 3 and len(answers.kept(path)) == 5  # those of both models that were missing
    monkeypatch.setattr(answers, "sample", None)
    assert evaluate(run, prompts, "--judge", "sentiment") == 0
    assert judged(run, "sentiment")["prompts"]["n"] == 5
    assert "all answers were kept by an earlier evaluation" in capsys.readouterr().out


def test_other_settings_and_other_weights_have_other_answers(run, tmp_path):
    path = answers.path_of(run, SAMPLING)
    assert answers.path_of(run, AnswerSampling(max_new_tokens=8, seed=1)) != path
    assert answers.path_of(run, AnswerSampling(max_new_tokens=9)) != path
    other = finished_runs.leave(tmp_path / "other", "embedded", scale=0.3, seed=1, max_length=256)
    (other / "recipe.resolved.yaml").write_text((run / "recipe.resolved.yaml").read_text())
    assert answers.path_of(other, SAMPLING).name != path.name


def test_a_run_of_zero_steps_gives_one_half_with_ties_counted(tmp_path, prompts, capsys):
    run = finished_runs.leave(tmp_path / "zero", "embedded", scale=0, max_length=256)
    assert evaluate(run, prompts, "--judge", "sentiment", "--judge", "embedded") == 0
    for name in ("sentiment", "embedded"):
        found = judged(run, name)
        assert found["win_rate"]["value"] == found["length_controlled"]["value"] == 0.5
        assert found["ties"] == found["equal"] == 5 and found["wins"] == found["losses"] == 0
    assert "contains 50 %" in capsys.readouterr().out


BAD = {
    "nosuch": (["--judge", "sentimant"], "`--judge` is sentimant, which is not a judge. Did you mean sentiment?"),
    "no folder": (["--judge", "./nowhere"], "`--judge` is ./nowhere, and there is no such folder."),
    "no address": (["--judge", "localhost:1/v1"], "write http://localhost:1/v1"),
    "unreachable": (["--judge", "http://127.0.0.1:1/v1", "--judge_model", "m"], "cannot be reached"),
    "no model": (["--judge", "api"], "Set `judge_model` to a model that the API serves."),
    "no template": (["--judge", "TINY"], "has no chat template, so it cannot be asked a question"),
    "template file": (["--judge", "api:m", "--judge_template", "absent.txt"], "absent.txt, which cannot be read"),
    "template text": (["--judge", "embedded", "--judge_template", "EMPTY"], "lacks {prompt}, {first} and {second}"),
    "unread": (["--judge", "sentiment", "--judge_model", "m"], "`--judge_model` needs a judge behind an API"),
    "without": (["--judge_timeout", "3"], "`--judge_timeout` needs a judge."),
    "prompts": (["--judge", "sentiment", "--prompts", "EMPTY"], "which has no prompts: every line is empty."),
    "columns": (["--judge", "sentiment", "--prompts", "ANSWERS"], "which has no prompts: its columns are `answer`."),
    "absent": (["--judge", "sentiment", "--prompts", "absent.jsonl"], "`--prompts` is absent.jsonl"),
    "limit": (["--judge", "sentiment", "--limit", "3"], "A judge reads as many prompts as `samples` says."),
    "three": (["--judge", "a", "--judge", "b", "--judge", "c"], "`--judge` names 3 judges."),
    "zero": (["--judge", "sentiment", "--samples", "0"], "`--samples` is 0, but a judge needs answers."),
    "long": (["--judge", "sentiment", "--max_new_tokens", "4096"], "No prompt leaves room for 4,096 more"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_sampling(words, message, run, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(answers, "sample", None)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "answers.jsonl").write_text('{"answer": "x"}\n')
    places = {"TINY": tiny_model, "EMPTY": f"{tmp_path}/empty.txt", "ANSWERS": f"{tmp_path}/answers.jsonl"}
    assert main(["eval", str(run), *(places.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not [*run.glob("samples-*"), *run.glob("judged-*")]


@pytest.mark.parametrize(("status", "message"), [(401, "asks for a key (401)"), (404, "has no model 'judge-2'")])
def test_an_api_that_refuses_is_told_before_sampling(status, message, run, monkeypatch, capsys):
    monkeypatch.setattr(answers, "sample", None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(lambda body: fails(status)) as stub:
        assert main(["eval", str(run), "--judge", stub.url, "--judge_model", "judge-2"]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_without_openai_the_package_is_asked_for(run, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    assert main(["eval", str(run), "--judge", "http://127.0.0.1:1/v1", "--judge_model", "m"]) == 2
    assert "Run `pip install openai`." in capsys.readouterr().err.replace("\n", " ")


def test_an_interrupt_keeps_the_judges_before_it_and_the_page_shows_them(
    given, prompts, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("stops.py").write_text("def stops(completions, **kwargs):\n    raise KeyboardInterrupt\n")
    (given / "report.html").unlink(missing_ok=True)
    assert evaluate(given, prompts, "--judge", "sentiment", "--judge", "stops.py:stops") == 130
    found = judged(given, "sentiment")
    assert found["wins"] == 2 and found["agreement"] is None and not list(given.glob("judged-stops*"))
    page = (given / "report.html").read_text(encoding="utf-8")
    assert "Win rate against the base" in page and "Review the hotel." in page
