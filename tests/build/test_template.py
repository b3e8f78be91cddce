"""`apply_chat_template`: the token ids of plain text under every column name and kind of training, against transformers' own
rendering of the conversation, and against TRL's tokenisation of plain text."""

import json

import datasets
import pytest
import yaml
from transformers import AutoTokenizer

from trl_ext import demo
from trl_ext.build import dataset
from trl_ext.build.config import training_config
from trl_ext.inspection.tokenise import tokenise
from trl_ext.recipe import load
from trl_ext.support.errors import UserError

TRIPLES = [("what film?", "a great film", "a dull film"), ("what book?", "a fine book", "a bad book")]
TOKENIZER = AutoTokenizer.from_pretrained(demo.MODEL)


def rows(prompt="prompt", chosen="chosen", rejected="rejected"):
    return [{prompt: q, chosen: good, rejected: bad} for q, good, bad in TRIPLES]


LABELLED = [
    {"prompt": q, "completion": text, "label": label} for q, a, b in TRIPLES for text, label in ((a, 1), (b, 0))
]
DEMONSTRATIONS = [{"prompt": q, "completion": good} for q, good, _ in TRIPLES]
BY_HAND = [
    {"prompt": f"<|user|>{q}<|end|><|assistant|>", "chosen": f"{good}<|end|>", "rejected": f"{bad}<|end|>"}
    for q, good, bad in TRIPLES
]
SETTINGS = {
    "paired": {},
    "unpaired": {"loss": "kto"},
    "reward": {"trainer": "reward"},
    "sft": {"trainer": "sft"},
    "ppo": {"trainer": "ppo", "reward_funcs": ["sentiment"], "per_device_train_batch_size": 2},
    "online": {
        "trainer": "online",
        "reward_funcs": ["sentiment"],
        "per_device_train_batch_size": 2,
        "num_generations": 2,
    },
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(rows, **settings) -> examples as token ids by column, and what was said."""
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()

    def _read(content, name="rows.jsonl", **settings):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in content))
        given = {"model_name_or_path": "embedded", "dataset_name": "rows.jsonl", "use_peft": True, **settings}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(given))
        recipe = load(tmp_path / "my.yaml")
        args, said = training_config(recipe, tmp_path), []
        found = dataset.read(recipe, args, said)
        return tokenise(recipe.method, found.train, TOKENIZER, args), said, found

    return _read


def conversation(prompt, completion):
    """Token ids of prompt and whole, as transformers renders them."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    start = TOKENIZER.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    return start, TOKENIZER.apply_chat_template(messages, return_dict=False)


def chat_pairs():
    for question, good, bad in TRIPLES:
        (start, chosen), (_, rejected) = conversation(question, good), conversation(question, bad)
        yield {"prompt_ids": start, "chosen_ids": chosen[len(start) :], "rejected_ids": rejected[len(start) :]}


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (rows(), {}),
        (rows("question"), {}),
        (rows("instruction"), {}),
        (rows("ask", "good", "bad"), {"dataset_columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"}}),
        (rows("question", "good", "bad"), {"dataset_columns": {"prompt": "question", "chosen": "good", "rejected": "bad"}}),
        (rows(), {"apply_chat_template": True}),
        ([{"prompt": q, "response_a": b, "response_b": a, "winner": "b"} for q, a, b in TRIPLES], {}),
    ],
)  # fmt: skip
def test_plain_text_becomes_turns_whatever_its_columns_are_called(read, content, settings):
    tokens, said, _ = read(content, **settings)
    expected = list(chat_pairs())
    assert [{name: row[name] for name in expected[0]} for row in tokens] == expected
    setting = str(settings.get("apply_chat_template", "auto")).lower()
    assert any(
        line.startswith("Chat template: applied.") and f"`apply_chat_template: {setting}`" in line for line in said
    )


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("unpaired", LABELLED),
        ("unpaired", rows()),
        ("reward", rows()),
        ("sft", DEMONSTRATIONS),
        ("sft", rows()),
        ("ppo", [{"prompt": q} for q, _, _ in TRIPLES]),
        ("ppo", rows("question")),
        ("online", rows()),
    ],
)
def test_every_kind_of_training(read, kind, content):
    tokens, _, _ = read(content, **SETTINGS[kind])
    whole = [conversation(q, text) for q, good, bad in TRIPLES for text in (good, bad)]
    if kind == "unpaired":
        assert [(row["prompt_ids"], row["prompt_ids"] + row["completion_ids"]) for row in tokens] == whole
    elif kind == "reward":
        assert [ids for row in tokens for ids in (row["chosen_ids"], row["rejected_ids"])] == [ids for _, ids in whole]
    elif kind == "sft":
        assert [row["input_ids"] for row in tokens] == [ids for _, ids in whole[::2]]
        assert [sum(label == -100 for label in row["labels"]) for row in tokens] == [
            len(start) for start, _ in whole[::2]
        ]
    else:
        assert [row["prompt_ids"] for row in tokens] == [start for start, _ in whole[::2]]


@pytest.mark.parametrize("prompt", ["prompt", "question", "instruction"])
def test_false_keeps_the_text_as_trl_tokenises_it(read, prompt):
    tokens, said, _ = read(rows(prompt), apply_chat_template=False)
    for row, (question, good, bad) in zip(tokens, TRIPLES, strict=True):
        assert row["prompt_ids"] == TOKENIZER(question)["input_ids"]
        for name, text in (("chosen_ids", good), ("rejected_ids", bad)):
            assert row["prompt_ids"] + row[name] == TOKENIZER(f"{question}{text}<|end|>")["input_ids"]
    assert any("not applied" in line and "`apply_chat_template: false`" in line for line in said)


def test_a_tokenizer_without_a_template_keeps_the_text(read, tmp_path):
    bare = AutoTokenizer.from_pretrained(demo.MODEL)
    bare.chat_template = None
    (tmp_path / "base").mkdir()
    for file in demo.MODEL.iterdir():
        (tmp_path / "base" / file.name).symlink_to(file)
    for file in ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja", "special_tokens_map.json"):
        (tmp_path / "base" / file).unlink(missing_ok=True)
    bare.save_pretrained(tmp_path / "base")
    for prompt in ("prompt", "question"):
        tokens, said, _ = read(rows(prompt), model_name_or_path="base")
        assert tokens[0]["prompt_ids"] == bare("what film?")["input_ids"]
        assert any("not applied. The tokenizer has none" in line for line in said)
    with pytest.raises(
        UserError, match=r"`apply_chat_template` \(line \d\) is true, but the tokenizer of base has no chat"
    ):
        read(rows(), model_name_or_path="base", apply_chat_template=True)


def test_text_in_which_the_template_was_written_by_hand_is_left_alone(read):
    tokens, said, _ = read(BY_HAND)
    expected = list(chat_pairs())
    assert [{name: row[name] for name in expected[0]} for row in tokens] == expected  # once, not twice
    assert any("All 2 rows contain `<|assistant|>`" in line for line in said)


def test_a_few_rows_with_its_tokens_do_not_decide_and_half_of_them_are_refused(read):
    many = 30 * rows()
    many[7] = {**many[7], "prompt": "What does <|assistant|> mean?"}
    tokens, said, _ = read(many)
    assert tokens[0]["prompt_ids"] == conversation(*TRIPLES[0][:2])[0]
    assert any("1 row already contained `<|assistant|>`" in line and "(first: row 7)" in line for line in said)
    with pytest.raises(UserError, match=r"2 of 4 rows contain `<\|assistant\|>`.*\(first: row 0\).*\(first: row 2\)"):
        read(BY_HAND + rows())
    assert (
        read(BY_HAND + rows(), apply_chat_template=False)[0][2]["prompt_ids"] == TOKENIZER("what film?")["input_ids"]
    )


def test_messages_are_used_as_they_are_and_cannot_do_without_the_template(read):
    messages = [
        {"prompt": [{"role": "user", "content": q}], **{k: [{"role": "assistant", "content": v}] for k, v in (("chosen", a), ("rejected", b))}}
        for q, a, b in TRIPLES
    ]  # fmt: skip
    tokens, said, _ = read(messages)
    assert tokens[1]["prompt_ids"] == conversation(*TRIPLES[1][:2])[0]
    assert "Chat template: applied to the messages (`apply_chat_template: auto`)." in said
    with pytest.raises(UserError, match=r"`apply_chat_template: false` was given, but rows\.jsonl holds messages"):
        read(messages, apply_chat_template=False)


@pytest.mark.parametrize(
    ("settings", "content"),
    [
        (SETTINGS["sft"], [{"text": f"{q} {good}"} for q, good, _ in TRIPLES]),
        ({}, [{"chosen": f"{q} {good}", "rejected": f"{q} {bad}"} for q, good, bad in TRIPLES]),
    ],
)
def test_whole_texts_have_no_turns(read, settings, content):
    tokens, said, _ = read(content, **settings)
    ids = tokens[0]["input_ids"] if settings else tokens[0]["prompt_ids"] + tokens[0]["chosen_ids"]
    assert ids == TOKENIZER("what film? a great film<|end|>")["input_ids"]
    assert (
        "Chat template: not applied. The rows are whole texts without prompts (`apply_chat_template: auto`)." in said
    )
    with pytest.raises(UserError, match="whole texts without a column of prompts"):
        read(content, apply_chat_template=True, **settings)


def test_rows_held_out_for_evaluation_and_other_splits_become_turns_too(read, tmp_path):
    content = [{"prompt": f"what film {i}?", "chosen": "a great film", "rejected": "a dull film"} for i in range(8)]
    found = read(content, eval_size=2, eval_strategy="steps")[2]
    assert found.evaluation[0]["prompt"][0]["content"].startswith("what film")
    assert found.evaluation[0]["chosen"] == [{"role": "assistant", "content": "a great film"}]
    (tmp_path / "folder").mkdir()
    for split in ("train", "test"):
        read(content, name=f"folder/{split}.jsonl", dataset_name="rows.jsonl" if split == "train" else "folder")
    found = read(content, dataset_name="folder", eval_strategy="steps")[2]
    assert found.evaluation[0]["rejected"] == [{"role": "assistant", "content": "a dull film"}]


def test_a_stream_is_judged_by_its_first_rows(read):
    settings = {"dataset_streaming": True, "max_steps": 1}
    for content in (rows(), BY_HAND):
        found = dataset_of(read, content, settings)
        assert [tokens_of(row) for row in found.train] == list(chat_pairs())


def dataset_of(read, content, settings):
    from unittest import mock

    with mock.patch(f"{__name__}.tokenise", lambda *given: None):  # a stream is tokenised by its trainer
        return read(content, **settings)[2]


def tokens_of(row):
    from trl import maybe_apply_chat_template

    text = maybe_apply_chat_template(row, TOKENIZER)
    start = TOKENIZER(text["prompt"])["input_ids"]
    rest = {name: TOKENIZER(text["prompt"] + text[name])["input_ids"][len(start) :] for name in ("chosen", "rejected")}
    return {"prompt_ids": start, "chosen_ids": rest["chosen"], "rejected_ids": rest["rejected"]}
