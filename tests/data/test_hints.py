"""What is said of data that is not recognised: a mapping that works, or what the data looks like instead."""

import re

import pytest
import yaml
from datasets import Dataset

from trl_ext import data
from trl_ext.data.recognise_file import recognise_file
from trl_ext.support.errors import UserError

ASKED = [
    "What colour is the sky?",
    "And the grass in spring?",
    "Why is it so?",
    "How many are there?",
    "Who knows it?",
]
GOOD = ["It is blue.", "It is green.", "Because it is.", "There are five.", "Nobody knows it."]
BAD = ["It is green.", "It is blue!", "No idea at all.", "There are six of them.", "Somebody must."]


def table(row):
    return [row(i, *texts) for i, texts in enumerate(zip(ASKED, GOOD, BAD, strict=True))]


def said(rows, write):
    """The sentences, which loading and `validate` have in common."""
    path = write("x.jsonl", rows)
    with pytest.raises(UserError) as error:
        data.load(path)
    with pytest.raises(UserError) as first:
        recognise_file(path)
    assert str(first.value) == str(error.value)
    return str(error.value)


def mapping(text):
    found = re.search(r"^dataset_columns:\n(  .*\n?)+", text, re.MULTILINE)
    return yaml.safe_load(found[0])["dataset_columns"] if found else None


WORKING = {
    "scores of other responses": (
        table(
            lambda i, q, g, b: {"post_id": f"x{i}", "domain": "ask_train", "body": q}
            | {"human_ref_A": b, "human_ref_B": g, "score_A": i, "score_B": 9}
        ),
        {"prompt": "body", "response_a": "human_ref_A", "response_b": "human_ref_B", "score_a": "score_A", "score_b": "score_B"},
    ),
    "two texts and a verdict": (
        table(lambda i, q, g, b: {"asked": q, "text_1": b, "text_2": g, "preference": "model_b"}),
        {"prompt": "asked", "response_a": "text_1", "response_b": "text_2", "winner": "preference"},
    ),
    "words": (
        table(lambda i, q, g, b: {"question_text": q, "good": g, "bad": b, "good_natured": True}),
        {"prompt": "question_text", "chosen": "good", "rejected": "bad"},
    ),
    "opposites": (
        table(lambda i, q, g, b: {"question": q, "incorrect_answer": b, "correct_answer": g}),
        {"prompt": "question", "chosen": "correct_answer", "rejected": "incorrect_answer"},
    ),
    "an object": (
        table(lambda i, q, g, b: {"data": {"id": f"i{i}", "question": q, "good": g, "bad": b}}),
        {"prompt": "data.question", "chosen": "data.good", "rejected": "data.bad"},
    ),
    "a prompt in an object": (
        table(
            lambda i, q, g, b: {"question": {"id": f"i{i}", "full_text": q}, "answer_0": b, "answer_1": g}
            | {"score_0": -1.0, "score_1": 1.0}
        ),
        {"prompt": "question.full_text", "response_a": "answer_0", "response_b": "answer_1", "score_a": "score_0", "score_b": "score_1"},
    ),
    "objects and a choice": (
        table(lambda i, q, g, b: {"info": {"id": f"i{i}", "post": q}, "summaries": [{"text": b}, {"text": g}], "choice": 1}),
        {"prompt": "info.post", "responses": "summaries", "choice": "choice"},
    ),
    "objects with scores": (
        table(lambda i, q, g, b: {"asked": q, "candidates": [{"text": b, "score": 1}, {"text": g, "score": 2}]}),
        {"prompt": "asked", "responses": "candidates"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORKING)
def test_a_mapping_is_suggested_that_works(name, write):
    rows, wanted = WORKING[name]
    assert mapping(said(rows, write)) == wanted
    dataset = data.load(write("x.jsonl", rows), columns=wanted).dataset
    texts = [
        [m if isinstance(m, str) else m[-1]["content"] for m in dataset[c]] for c in ("prompt", "chosen", "rejected")
    ]
    assert texts == [ASKED, GOOD, BAD]


def test_lists_of_completions_are_not_called_wrong(write):
    rows = table(lambda i, q, g, b: {"asked": q, "completions": [g, b], "scores": [2, 1]})
    text = said(rows, write)
    assert "neither text nor messages" not in text
    assert mapping(text) == {"prompt": "asked", "responses": "completions", "scores": "scores"}


def test_labels_are_suggested_if_they_are_two_classes(write):
    rows = table(lambda i, q, g, b: {"query": q, "reply": g, "thumbs": "up" if i % 2 else "down"})
    assert mapping(said(rows, write)) == {"prompt": "query", "completion": "reply", "label": "thumbs"}


INSTEAD = {
    "a vote of 0 and 1": (
        table(lambda i, q, g, b: {"post_id": f"x{i}", "history": q, "human_ref_A": b, "human_ref_B": g, "labels": i % 2}),
        'map({1: "a", 0: "b"})` if 1 means `human_ref_A`. Then write `dataset_columns: {response_a: human_ref_A, response_b: human_ref_B}`.',
    ),
    "a label beside two responses": (
        table(lambda i, q, g, b: {"prompt": q, "response_a": g, "response_b": b, "label": i % 2}),
        "Datasets differ in which of them the 0 and 1 of `label` mean.",
    ),
    "a strength": (
        table(lambda i, q, g, b: {"prompt": q, "reply_1": g, "reply_2": b, "strength": i - 2}),
        "write `dataset_columns: {response_a: reply_1, response_b: reply_2, overall_preference: strength}`.",
    ),
    "no verdict": (
        table(lambda i, q, g, b: {"prompt": q, "response_a": g, "response_b": b}),
        "look like two responses, and no column says which is better.",
    ),
    "objects without a score": (
        table(lambda i, q, g, b: {"prompt": q, "answers": [{"answer": g, "model": "x"}], "good_natured": True}),
        "`answers` is a list of objects with the keys answer, model. None of them is a number that says which are better",
    ),
    "objects with other keys": (
        table(lambda i, q, g, b: {"prompt": q, "answers": [{"body": g, "grade": 3}, {"body": b, "grade": 1}], "good_natured": True}),
        'write `dataset_columns: {responses: "answers.body", scores: "answers.grade"}`',
    ),
    "ratings": (
        table(lambda i, q, g, b: {"prompt": q, "response": g, "helpfulness": i, "verbosity": 2}),
        'agg(responses=("response", list), scores=("helpfulness", list))',
    ),
    "demonstrations": (
        table(lambda i, q, g, b: {"instruction": q, "input": "", "output": g}),
        "It looks like demonstrations: `instruction` with one completion in `output`, which nothing calls good or bad.",
    ),
    "conversations": (
        table(lambda i, q, g, b: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": g}]}),
        "`messages` holds whole conversations, which nothing compares. `trainer: sft` learns from them.",
    ),
    "text": (table(lambda i, q, g, b: {"text": f"{q} {g}"}), "It looks like plain text. `trainer: sft` learns from `text`."),
    "prompts": (table(lambda i, q, g, b: {"prompt": q, "id": i}), "It looks like prompts without completions."),
}  # fmt: skip


@pytest.mark.parametrize("name", INSTEAD)
def test_where_no_mapping_would_work_the_data_is_described(name, write):
    rows, words = INSTEAD[name]
    text = said(rows, write)
    assert words in text and mapping(text) is None


def test_what_the_descriptions_say_works(write):
    signed = INSTEAD["a strength"][0]
    columns = {"response_a": "reply_1", "response_b": "reply_2", "overall_preference": "strength"}
    dataset = data.load(write("x.jsonl", signed), columns=columns).dataset
    assert dataset["chosen"][:] == [GOOD[0], GOOD[1], BAD[3], BAD[4]]  # -2 and -1, no preference, 1 and 2
    nested = INSTEAD["objects with other keys"][0]
    columns = {"responses": "answers.body", "scores": "answers.grade"}
    assert data.load(write("y.jsonl", nested), columns=columns).dataset["chosen"][:] == GOOD
    votes = Dataset.from_list(INSTEAD["a vote of 0 and 1"][0]).to_pandas()
    votes["winner"] = votes["labels"].map({1: "a", 0: "b"})
    columns = {"response_a": "human_ref_A", "response_b": "human_ref_B"}
    dataset = data.load(Dataset.from_pandas(votes), columns=columns).dataset
    assert [m[0]["content"] for m in dataset["chosen"]] == [GOOD[0], BAD[1], GOOD[2], BAD[3], GOOD[4]]


def test_a_prompt_beside_chosen_and_rejected_is_not_overlooked(write):
    rows = table(lambda i, q, g, b: {"user_query": q, "chosen": g, "rejected": b})
    text = said(rows, write)
    assert "`user_query` looks like the prompt, and it is not in their texts." in text
    path = write("x.jsonl", rows)
    assert data.load(path, columns={"prompt": "user_query"}).dataset["prompt"][:] == ASKED
    assert data.load(path, format="trl").report.format == "trl"
    whole = table(lambda i, q, g, b: {"user_query": q, "chosen": f"{q} {g}", "rejected": f"{q} {b}"})
    assert data.load(write("w.jsonl", whole)).report.format == "trl"


def test_a_hint_keeps_the_paths_that_are_given():
    rows = [
        {"ask": f"How was day {i}?", "all": [{"body": "It was good.", "votes": 3}, {"body": "Bad.", "votes": i % 3}]}
        for i in range(9)
    ]
    given = {"responses": "all.body", "scores": "all.votes"}
    with pytest.raises(UserError, match="Name the columns in the recipe") as refused:
        data.load(Dataset.from_list(rows), columns=given)
    hint = yaml.safe_load(str(refused.value).partition("recipe:\n")[2])["dataset_columns"]
    assert hint == {"prompt": "ask", **given}
    assert len(data.load(Dataset.from_list(rows), columns=hint).dataset) == 9
