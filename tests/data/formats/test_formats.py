"""Every spelling of the same preferences becomes the same rows of TRL's type."""

import pytest
from datasets import Dataset
from trl.data_utils import extract_prompt, is_conversational

from tests.data.rows import (
    CONVERSATIONAL,
    PAIRED_SPELLINGS,
    PLAIN,
    SYSTEM,
    TRIPLES,
    UNPAIRED,
    UNPAIRED_SPELLINGS,
    assistant,
    system,
    user,
)
from trl_ext import data
from trl_ext.data.formats import NAMES


@pytest.mark.parametrize("name", PAIRED_SPELLINGS)
def test_paired_spelling_from_a_file(name, write):
    format, rows = PAIRED_SPELLINGS[name]
    dataset, report = data.load(write("pairs.jsonl", rows))
    assert dataset.to_list() == CONVERSATIONAL
    assert (report.format, report.paired, report.conversational) == (format, True, True)
    assert (report.rows_in, report.rows_out, report.dropped, report.duplicates) == (2, 2, {}, 0)
    assert is_conversational(dataset[0])


@pytest.mark.parametrize("name", UNPAIRED_SPELLINGS)
def test_unpaired_spelling_from_a_file(name, write):
    format, rows = UNPAIRED_SPELLINGS[name]
    dataset, report = data.load(write("singles.jsonl", rows))
    assert dataset.to_list() == UNPAIRED
    assert (report.format, report.paired, report.desirable, report.undesirable) == (format, False, 2, 2)


def test_every_format_is_tested():
    assert {format for format, _ in (PAIRED_SPELLINGS | UNPAIRED_SPELLINGS).values()} == set(NAMES)


def test_plain_pairs_stay_as_they_are():
    given = Dataset.from_list(PLAIN)
    dataset, report = data.load(given)
    assert dataset.to_list() == PLAIN
    assert "kept as they are" in report.done


def test_implicit_plain_prompt_is_cut_where_trl_cuts_it():
    rows = [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in PLAIN]
    dataset, _ = data.load(Dataset.from_list(rows))
    # "… sky? It is" is shared: TRL's cut, and a space goes to the answers.
    assert dataset[0] == extract_prompt(rows[0])
    assert dataset[0] == {
        "prompt": "What colour is the sky? It is",
        "chosen": " blue.",
        "rejected": " green.",
    }
    assert dataset[1] == extract_prompt(rows[1])


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue", "The sky is black", "The sky is"),  # TRL: "The sky is bl"
        ("Q: sky? A: yes", "Q: sky? A: yes, it is", "Q: sky? A: yes"),  # one begins the other; TRL: "… A: ye"
        ("same", "same", ""),  # nothing to learn, and counted as such; TRL: "sam"
        ("yes ", "no ", ""),  # TRL: "yes", cut from the end
    ],
)
def test_implicit_plain_prompt_where_trl_cuts_elsewhere(chosen, rejected, prompt):
    row = {"chosen": chosen, "rejected": rejected}
    dataset = data.load(Dataset.from_list([row]), training=False).dataset
    assert dataset[0]["prompt"] == prompt != extract_prompt(row)["prompt"]
    for name, text in row.items():
        assert dataset[0]["prompt"] + dataset[0][name] == text


def test_implicit_turns_are_cut_where_trl_cuts_them():
    rows = PAIRED_SPELLINGS["trl, implicit prompt"][1]
    assert data.load(Dataset.from_list(rows)).dataset.to_list() == [extract_prompt(row) for row in rows]


@pytest.mark.parametrize(
    "columns",
    [("system", "question"), ("system_prompt", "prompt"), ("system", "query")],
)
def test_orca_system_text_opens_the_conversation(columns):
    told, asked = columns
    rows = [
        {told: SYSTEM, asked: q, "chosen": g, "rejected": b} if i else {told: "", asked: q, "chosen": g, "rejected": b}
        for i, (q, g, b) in enumerate(TRIPLES)
    ]
    dataset, report = data.load(Dataset.from_list(rows))
    assert report.format == "orca"
    assert dataset[0]["prompt"] == [user(TRIPLES[0][0])]
    assert dataset[1]["prompt"] == [system(SYSTEM), user(TRIPLES[1][0])]


def test_alpaca_input_history_and_system():
    row = {
        "instruction": "Translate.",
        "input": "Bonjour",
        "system": SYSTEM,
        "history": [["Hi", "Hello!"]],
        "output": ["Good day", "Good", "Bad"],
    }
    dataset, report = data.load(Dataset.from_list([row]))
    assert dataset[0] == {
        "prompt": [system(SYSTEM), user("Hi"), assistant("Hello!"), user("Translate.\nBonjour")],
        "chosen": [assistant("Good day")],
        "rejected": [assistant("Bad")],
    }
    assert "1 pair of 1 row: the best and the worst completion of each row" in report.sentences()[1]


def test_sharegpt_system_and_tools():
    tools = '[{"name": "search"}]'
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "gpt", "value": "Let me look."},
            {"from": "observation", "value": "sunny"},
        ],
        "system": SYSTEM,
        "tools": tools,
        "chosen": {"from": "gpt", "value": "Sunny."},
        "rejected": {"from": "gpt", "value": "Rain."},
    }
    dataset, _ = data.load(Dataset.from_list([row]))
    assert [m["role"] for m in dataset[0]["prompt"]] == ["system", "user", "assistant", "tool"]
    assert dataset[0]["tools"] == tools


def test_tool_calls_survive_and_absent_ones_do_not_come_back_as_null():
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "f"}}],
    }
    row = {
        "chosen": [user("Weather?"), call, {"role": "tool", "content": "sunny"}, assistant("Sunny.")],
        "rejected": [user("Weather?"), call, {"role": "tool", "content": "sunny"}, assistant("Rain.")],
    }
    dataset, _ = data.load(Dataset.from_list([row]))
    prompt = dataset[0]["prompt"] + dataset[0]["chosen"]
    assert prompt[0] == user("Weather?")
    assert prompt[1]["tool_calls"] == call["tool_calls"]
    assert prompt[-1] == assistant("Sunny.")
    single = data.unpair(dataset).dataset
    assert single[0]["prompt"] + single[0]["completion"] == prompt


def test_ultrafeedback_prompt_that_is_not_the_conversation_is_left_out_and_counted():
    row = PAIRED_SPELLINGS["ultrafeedback"][1][0]
    dataset, report = data.load(Dataset.from_list([row, {**row, "prompt": "Something else"}]))
    assert dataset.to_list() == [CONVERSATIONAL[0]] * 2
    assert report.notes == {"the prompt column does not match the conversation and was ignored": 1}
    assert report.duplicates == 1


def test_recognition_looks_past_the_first_rows():
    _, rows = PAIRED_SPELLINGS["hh"]
    junk = {"chosen": None, "rejected": "not a transcript"}
    dataset, report = data.load(Dataset.from_list([junk, *rows, *rows, *rows]))
    assert report.format == "hh"
    assert len(dataset) == 6
    assert [(d.rows, d.first) for d in report.dropped.values()] == [(1, 0)]


def test_answers_that_part_early_keep_all_their_turns():
    chosen = [user("a"), assistant("b"), user("c"), assistant("d")]
    rejected = [user("a"), assistant("x"), user("y"), assistant("z")]
    dataset, report = data.load(Dataset.from_list([{"chosen": chosen, "rejected": rejected}]))
    assert dataset[0] == {"prompt": [user("a")], "chosen": chosen[1:], "rejected": rejected[1:]}
    assert list(report.notes.values()) == [1] and "several turns" in next(iter(report.notes))


def test_answers_that_part_in_a_user_turn_begin_at_the_assistant_turn_before_it():
    chosen = [user("a"), assistant("b"), user("c"), assistant("d")]
    rejected = [user("a"), assistant("b"), user("y"), assistant("z")]
    dataset, _ = data.load(Dataset.from_list([{"chosen": chosen, "rejected": rejected}]))
    assert dataset[0] == {"prompt": [user("a")], "chosen": chosen[1:], "rejected": rejected[1:]}


def test_vision_columns_and_content_parts_pass_through():
    from datasets import Features, Image, List, Value
    from PIL import Image as Pillow

    part = {"type": Value("string"), "text": Value("string")}
    messages = List({"role": Value("string"), "content": List(part)})
    features = Features({"images": List(Image()), "prompt": messages, "chosen": messages, "rejected": messages})

    def say(role, text):
        return {"role": role, "content": [{"type": "text", "text": text}]}

    shown = {
        "role": "user",
        "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}],
    }
    row = {
        "images": [Pillow.new("RGB", (2, 2))],
        "prompt": [shown],
        "chosen": [say("assistant", "A dot.")],
        "rejected": [say("assistant", "A cat.")],
    }
    dataset, report = data.load(Dataset.from_list([row, {**row, "chosen": None}], features=features))
    assert len(dataset) == 1 and dataset.features == features
    assert dataset[0]["prompt"] == [shown]
    assert dataset[0]["images"][0].size == (2, 2)
    assert report.duplicates is None

    # The same with plain text beside the image, as RLAIF-V has it: the question becomes a turn.
    plain = {
        "image": Pillow.new("RGB", (2, 2)),
        "question": "What is this?",
        "chosen": "A dot.",
        "rejected": "A cat.",
    }
    features = Features({"image": Image(), **{name: Value("string") for name in ("question", "chosen", "rejected")}})
    given = Dataset.from_list(
        [plain, {**plain, "chosen": None}, {**plain, "question": "And this?"}], features=features
    )
    dataset, report = data.load(given.select([2, 1, 0]))
    assert [row["prompt"] for row in dataset] == [[user("And this?")], [user("What is this?")]]
    assert report.rows_in == 3 and dataset.features["image"] == Image()
    assert dataset[0]["image"].size == (2, 2)
    single = data.unpair(dataset).dataset
    assert len(single) == 4 and single[1]["image"].size == (2, 2)
