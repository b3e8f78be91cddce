"""`trl-ext chat`: who answers, what is kept, and what it says to wrong input."""

import io
import json
import os
import shutil
import termios

import pytest
import torch
from peft import PeftModel
from rich.cells import cell_len
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import finished_runs
from trl_ext import demo
from trl_ext.chat import screen, session
from trl_ext.chat.answer import Settings
from trl_ext.chat.echo import without_echo
from trl_ext.chat.side import BASE, TUNED, sides_of
from trl_ext.checkpoints import manifest
from trl_ext.cli import main
from trl_ext.runs.load import open_model

QUESTION = "How was the hotel in Rome?"
GREEDY = Settings(temperature=0, max_new_tokens=24, seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An adapter on the embedded model that turns its reviews into others."""
    return finished_runs.leave(tmp_path_factory.mktemp("runs") / "first", "embedded", scale=0.3)


@pytest.fixture(scope="module")
def opened(run):
    opened = open_model(run)
    opened.add_reference()
    return opened


@pytest.fixture
def asked(capsys):
    """What a command prints for scripts, one JSON object a line."""

    def ask(*words: str) -> list[dict]:
        assert main(["chat", *map(str, words), "--json", "--temperature", "0", "--max_new_tokens", "24"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return ask


@torch.no_grad()
def greedy(model, prompt_ids: list[int], tokenizer) -> str:
    """The likeliest token 24 times over, by plain forward passes."""
    ids = list(prompt_ids)
    for _ in range(24):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[len(prompt_ids) :], skip_special_tokens=True)


def rendered(tokenizer, *messages: str) -> list[int]:
    roles = ("user", "assistant")
    conversation = [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
    return tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)


def test_tuned_and_base_answer_as_the_models_on_disk(run, asked):
    tokenizer = AutoTokenizer.from_pretrained(run)
    base = AutoModelForCausalLM.from_pretrained(demo.MODEL, dtype=torch.float32).eval()
    expected = greedy(base, rendered(tokenizer, QUESTION), tokenizer)
    tuned = PeftModel.from_pretrained(base, run).eval()
    [found] = asked(run, "--compare", "--prompt", QUESTION)
    assert found == {
        "prompt": QUESTION,
        "answer": greedy(tuned, rendered(tokenizer, QUESTION), tokenizer),
        "base_answer": expected,
    }
    assert found["answer"] != found["base_answer"]


def test_of_a_continued_run_the_base_is_the_adapter_it_began_with(run, asked, tmp_path):
    second = finished_runs.leave(tmp_path / "second", str(run), scale=0.3, seed=1)
    [both] = asked(second, "--compare", "--prompt", QUESTION)
    [first] = asked(run, "--prompt", QUESTION)
    assert both["base_answer"] == first["answer"] != both["answer"]


def test_a_checkpoint_answers_with_its_own_adapter(run, asked, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    finished_runs.leave(copy / "checkpoint-1", "embedded", scale=0)
    (copy / "checkpoint-1" / "recipe.resolved.yaml").unlink()  # which is in the run's directory alone
    [found] = asked(copy / "checkpoint-1", "--compare", "--prompt", QUESTION)
    assert found["answer"] == found["base_answer"]


def test_an_adapter_without_a_run_answers_on_its_base(run, asked, tmp_path):
    folder = shutil.copytree(run, tmp_path / "adapter")
    (folder / "recipe.resolved.yaml").unlink()
    assert asked(folder, "--compare", "--prompt", QUESTION) == asked(run, "--compare", "--prompt", QUESTION)
    introduced = session._introduction(open_model(folder), is_compared=False)
    assert introduced == f"{folder}: an adapter without a recipe, on {demo.MODEL}."


def test_models_without_adapter(tiny_model, asked, tmp_path):
    """A model without a run (a merged one, say), and a run that trained all weights; neither has a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt_ids = tokenizer("the time of")["input_ids"]
    expected = greedy(AutoModelForCausalLM.from_pretrained(tiny_model).eval(), prompt_ids, tokenizer)
    [alone] = asked(tiny_model, "--prompt", "the time of")
    assert alone == {"prompt": "the time of", "answer": expected}
    whole = finished_runs.leave_all_weights(tmp_path / "whole", tiny_model)
    [both] = asked(whole, "--compare", "--prompt", "the time of")
    tuned = AutoModelForCausalLM.from_pretrained(whole).eval()
    assert both["base_answer"] == expected and both["answer"] == greedy(tuned, prompt_ids, tokenizer) != expected


def test_data_that_was_moved_is_not_missed(run, asked, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "recipe.resolved.yaml"
    path.write_text(path.read_text().replace("dataset_name: embedded", "dataset_name: /no/longer/there.jsonl"))
    assert asked(tmp_path / "run", "--prompt", QUESTION) == asked(run, "--prompt", QUESTION)


def test_each_line_of_a_pipe_is_a_conversation_of_its_own(run, asked, monkeypatch, capsys):
    questions = [QUESTION, "How was the film?"]
    alone = [asked(run, "--prompt", question)[0] for question in questions]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{questions[0]}\n\n{questions[1]}\n"))
    assert asked(run) == alone
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions)))
    assert main(["chat", str(run), "--temperature", "0", "--max_new_tokens", "24"]) == 0
    assert capsys.readouterr().out == "".join(f"{found['answer']}\n" for found in alone)
    assert main(["chat", str(run), "--compare", "--prompt", QUESTION, "--max_new_tokens", "2"]) == 0
    question, *answers, blank = capsys.readouterr().out.splitlines()
    assert question == f"> {QUESTION}" and [line.split(":")[0] for line in answers] == ["base", "tuned"]
    assert blank == ""


def test_sampling_repeats_with_its_seed(run, capsys):
    answers = []
    for seed in ("1", "1", "2"):
        assert main(["chat", str(run), "--prompt", QUESTION, "--seed", seed]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]


def test_each_side_remembers_what_it_said_itself(opened):
    tokenizer = opened.tokenizer
    for side in sides_of(opened, GREEDY, None, is_compared=True):
        first, second = (side.answer(question, lambda text: None) for question in (QUESTION, "And the soup?"))
        asked = rendered(tokenizer, QUESTION, first, "And the soup?")
        with opened.reference() if side.name == BASE else torch.no_grad() as model:
            assert second == greedy(model or opened.model, asked, tokenizer)
        side.conversation.start_again(None)
        assert side.answer(QUESTION, lambda text: None) == first


def test_what_is_streamed_is_the_answer(opened):
    [side] = sides_of(opened, GREEDY, None, is_compared=False)
    pieces = []
    assert side.answer(QUESTION, pieces.append) == "".join(pieces) and len(pieces) > 3


def test_ctrl_c_ends_an_answer_and_leaves_the_conversation_usable(opened):
    [side] = sides_of(opened, GREEDY, None, is_compared=False)
    pieces = []

    def write(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    whole = side.answer(QUESTION, lambda text: None)
    side.conversation.start_again(None)
    part = side.answer(QUESTION, write, is_stoppable=True)
    assert part == "".join(pieces) and part and whole.startswith(part) and part != whole
    assert [message["content"] for message in side.conversation.messages] == [QUESTION, part]
    pieces.clear()
    with pytest.raises(KeyboardInterrupt):
        side.answer(QUESTION, write)
    with opened.reference() as base:  # the adapter is on again after an interruption with it off
        pass
    assert base.active_adapters == ["default"]


def test_a_typed_session(opened, monkeypatch, capsys):
    lines = iter([QUESTION, "/system Be kind.", QUESTION, "/help", "/frobnicate", "", "/reset", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    seen = []
    monkeypatch.setattr(
        screen, "written", lambda sides, *rest: seen.append((sides[0].conversation.messages[:], *rest))
    )
    session.typed(opened, GREEDY, None, is_compared=False)
    system = [{"role": "system", "content": "Be kind."}]
    assert seen == [([], QUESTION, True), (system, QUESTION, True)]
    printed = capsys.readouterr().out
    assert "There is no command /frobnicate" in printed and "There is no command /help" not in printed
    # at the start, for /help, and after the unknown command
    assert printed.count("/reset         start a new conversation") == 3
    assert "first: dpo, trained from embedded" in printed

    monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(EOFError))
    session.typed(opened, GREEDY, None, is_compared=True)
    assert "The base is the same model with its adapter off." in capsys.readouterr().out


def test_what_is_typed_while_a_model_loads_waits_unseen(monkeypatch):
    controller, terminal = os.openpty()
    with open(terminal, encoding="utf-8") as file, open(controller, "rb", buffering=0):
        monkeypatch.setattr("sys.stdin", file)

        def is_echoing() -> bool:
            return bool(termios.tcgetattr(file)[3] & termios.ECHO)

        with without_echo():
            assert not is_echoing()
            os.write(controller, b"How was it?\n")
        assert is_echoing() and file.readline() == "How was it?\n"
        with pytest.raises(KeyboardInterrupt), without_echo():
            raise KeyboardInterrupt
        assert is_echoing()


def test_a_run_that_was_killed_names_its_newest_whole_checkpoint(run, tmp_path, monkeypatch, capsys):
    killed = tmp_path / "runs" / "killed"
    killed.mkdir(parents=True)
    resolved = (run / "recipe.resolved.yaml").read_text()
    (killed / "recipe.resolved.yaml").write_text(resolved)
    for step in (2, 10, 12):
        shutil.copytree(run, killed / f"checkpoint-{step}")
        manifest.write(killed / f"checkpoint-{step}", {})
    (killed / "checkpoint-12" / "adapter_config.json").unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(resolved)
    for verb in (["chat"], ["eval"], ["kl"], ["merge", "--output", "merged"], ["compare"]):
        assert main([verb[0], "runs/killed", *verb[1:]]) == 2
        said = capsys.readouterr().err
        assert "has not finished. Give its newest complete checkpoint, runs/killed/checkpoint-10." in said, verb
    assert main(["chat", "small.yaml"]) == 2
    assert (
        "The newest complete checkpoint of an unfinished run is runs/killed/checkpoint-10." in capsys.readouterr().err
    )


def test_plain_text_is_continued_where_there_is_no_template(tiny_model):
    from trl_ext.chat.conversation import Conversation

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    conversation = Conversation(tokenizer)
    conversation.ask("the time of")
    conversation.answered(" the")
    assert conversation.ask("all") == tokenizer("the time of the\nall")["input_ids"]


class Stub:
    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    def answer(self, question, write, *, is_stoppable):
        for word in self.text.split(" "):
            write(f"{word} ")
        return self.text


def test_two_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    answers = {BASE: "bad " * 60, TUNED: "good " * 30}
    screen.side_by_side([Stub(name, text) for name, text in answers.items()], QUESTION, True)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    start = next(i for i, line in enumerate(lines) if "base" in line and "tuned" in line)
    final = "\n".join(lines[start:])
    assert final.count("bad") == 60 and final.count("good") == 30
    assert lines[start].index("tuned") == lines[start + 1].index("good")


def test_only_the_end_of_a_long_answer_is_shown_while_it_grows():
    from rich.console import Console
    from rich.text import Text

    text = Text(" ".join(map(str, range(500))))
    shown = screen._end(text, Console(), 40, 5).plain
    assert shown.count("\n") == 4 and shown.endswith("498 499") and not shown.startswith("0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist. Give the directory of a run, or a recipe"),
        (["."], "holds neither an adapter (adapter_config.json) nor a model (config.json)"),
        (["MODEL", "--compare"], "is a model without a run, so"),
        (
            ["MODEL", "--system", "Be kind.", "--prompt", "x"],
            "has no chat template, so it cannot have a system message",
        ),
        (["RUN", "--temperature", "-1"], "`--temperature` is -1: give a number of at least 0"),
        (["RUN", "--max_new_tokens", "0"], "`--max_new_tokens` is 0"),
        (["RUN", "--prompt", " "], "`--prompt` is empty"),
        (["RUN", "--prompt", "x " * 5000], "tokens, but the model takes at most 4,096. Start a new conversation"),
        (["REWARD"], "holds a reward model, which cannot generate text"),
        (["GONE", "--compare"], "which no longer exists. Restore it"),
    ],
)
def test_wrong_input(words, message, run, tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, old, new in (("reward", "loss: dpo", "trainer: reward"), ("gone", "embedded", "/no/longer/there")):
        shutil.copytree(run, name)
        path = tmp_path / name / "recipe.resolved.yaml"
        path.write_text(path.read_text().replace(old, new))
    places = {"MODEL": tiny_model, "RUN": str(run), "REWARD": "reward", "GONE": "gone"}
    assert main(["chat", *(places.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err
