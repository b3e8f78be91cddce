"""Verdicts of a local causal model against plain forward passes of one sequence each."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_ext.demo import MODEL
from trl_ext.judging.causal_model import CausalModelJudge
from trl_ext.judging.judge import Question, Verdict
from trl_ext.judging.local_model import load, problem
from trl_ext.support.errors import UserError

QUESTIONS = [
    Question("How was the hotel in Rome?", "I loved the room.", "I hated the bed, and the staff was awful."),
    Question("How was the bed?", "The staff was great.", "I loved it."),
    Question("How was the old bar by the sea?", "It was great.", "I hated the room."),
]


def render(question):
    return f"{question.prompt} First: {question.first} Second: {question.second} Which?"


@pytest.fixture(scope="module")
def loaded():
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), AutoTokenizer.from_pretrained(MODEL)


@torch.no_grad()
def logp(model, tokenizer, question, word) -> float:
    """log p(word | question): every token of the word, from one unpadded sequence."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": render(question)}], add_generation_prompt=True, tokenize=False
    )
    prompt, whole = (tokenizer(each, add_special_tokens=False).input_ids for each in (text, text + word))
    assert whole[: len(prompt)] == prompt
    logps = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logps[i - 1, whole[i]].item() for i in range(len(prompt), len(whole)))


@pytest.mark.parametrize(
    "words", [("I", "The"), (" great", " awful"), ("I loved the room", "I hated it"), ("I loved", "It")]
)
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_the_more_probable_verdict_wins(loaded, words, batch_tokens):
    judge = CausalModelJudge("mine", *loaded, render, words, batch_tokens)
    expected = [[logp(*loaded, question, word) for word in words] for question in QUESTIONS]
    found = list(judge.log_probabilities(QUESTIONS))
    assert [one - other for one, other in found] == pytest.approx([one - other for one, other in expected], abs=1e-4)
    verdicts = [Verdict.FIRST if one > other else Verdict.SECOND for one, other in expected]
    assert list(judge.verdicts(QUESTIONS)) == verdicts
    other_way = CausalModelJudge("mine", *loaded, render, words[::-1], batch_tokens)
    assert list(other_way.verdicts(QUESTIONS)) == [verdict.swapped() for verdict in verdicts]


def test_words_of_one_token_are_compared_in_one_pass_per_batch(loaded, monkeypatch):
    model, tokenizer = loaded
    words = (" great", " awful")
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in words)
    passes, forward = [], type(model).forward
    monkeypatch.setattr(model, "forward", lambda **kwargs: passes.append(1) or forward(model, **kwargs))
    list(CausalModelJudge("mine", model, tokenizer, render, words).verdicts(QUESTIONS))
    assert len(passes) == 1


def test_equal_log_probabilities_are_a_tie(loaded, monkeypatch):
    judge = CausalModelJudge("mine", *loaded, render)
    monkeypatch.setattr(judge, "_compute", lambda rows: [(-1.5, -1.5) for _ in rows])
    assert list(judge.verdicts(QUESTIONS)) == [Verdict.TIE] * 3


def test_the_shipped_template_shows_both_answers_and_asks_for_the_letters(loaded):
    judge = CausalModelJudge("mine", *loaded)
    braces = Question([{"role": "user", "content": "Say {second}."}], "{prompt}", "{x}")
    for question in (*QUESTIONS, braces):
        text = judge._render(question)
        assert text.index(question.first) < text.index(question.second) < text.index("Reply with one letter")


def test_a_verdict_that_begins_with_the_other_is_refused(loaded):
    with pytest.raises(UserError, match="'A' and 'AB', but one begins with the other"):
        CausalModelJudge("mine", *loaded, render, ("A", "AB"))


def test_a_model_without_a_chat_template_is_refused_from_its_files(tiny_model):
    sentence = problem(tiny_model)
    assert sentence.startswith(f"The judge {tiny_model} has no chat template")
    with pytest.raises(UserError, match="has no chat template"):
        CausalModelJudge(tiny_model, None, AutoTokenizer.from_pretrained(tiny_model), render)
    assert problem(str(MODEL)) is problem("embedded") is None


def test_no_weights_are_read_of_a_model_without_a_chat_template(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "judge")
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="has no chat template"):
        load(str(tmp_path / "judge"))


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_a_model_is_loaded_in_evaluation_mode_and_in_4_bits_on_request(load_in_4bit):
    model, tokenizer = load("embedded", load_in_4bit=load_in_4bit)
    assert not model.training and getattr(model, "is_loaded_in_4bit", False) == load_in_4bit
    judge = CausalModelJudge("embedded", model, tokenizer, render, (" great", " awful"))
    expected = [logp(model, tokenizer, question, " great") for question in QUESTIONS]
    assert [first for first, _ in judge.log_probabilities(QUESTIONS)] == pytest.approx(expected, abs=1e-4)
