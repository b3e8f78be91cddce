"""Contents that are lists of parts: text is joined, whatever column or kind of data it stands in."""

import json

import pytest
from datasets import Dataset

from trl_ext import data
from trl_ext.data import plain_data
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.formats.messages import as_messages
from trl_ext.data.prompts import PROMPTS


def text(*texts, **more):
    return [{"type": "text", "text": part, **more} for part in texts]


def say(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Hi", "Hi"),
        (text("Hi"), "Hi"),
        (text("Hi, ", "there"), "Hi, there"),
        ([{"text": "Hi"}], "Hi"),
        ({"type": "text", "text": "Hi"}, "Hi"),
        (["Hi, ", "there"], "Hi, there"),
        (text("Hi", image=None, image_url=None), "Hi"),  # as Arrow fills the keys of other rows
        ([{"type": "input_text", "text": "Hi"}], "Hi"),
        ([{"type": "output_text", "text": "Hi", "annotations": []}], "Hi"),
        ([], ""),
        (None, None),
    ],
)
def test_text_parts_are_joined(content, expected):
    if expected is None:
        with pytest.raises(Exception, match="no role or no text"):
            as_messages([say("user", content)], "user", set())
        return
    assert as_messages([say("user", content)], "user", set()) == [say("user", expected)]


@pytest.mark.parametrize("thought", ["hm", [{"type": "text", "text": "hm"}], ["h", "m"]])
@pytest.mark.parametrize("kind", ["thinking", "reasoning"])
def test_parts_that_hold_a_thought_become_the_key_that_templates_read(kind, thought):
    parts = [{"type": kind, kind: thought, "signature": "x", "text": None}, *text("A")]
    expected = {"role": "assistant", "content": "A", "reasoning_content": "hm"}
    assert as_messages([say("assistant", parts)], "assistant", set()) == [expected]
    alone = [{"type": kind, kind: thought}]
    assert as_messages([say("assistant", alone)], "assistant", set()) == [{**expected, "content": ""}]


def test_thoughts_that_cannot_be_read_stay_parts():
    for thought in (None, 1, [{"type": "image"}]):
        parts = [{"type": "thinking", "thinking": thought}, *text("A")]
        assert as_messages([say("assistant", parts)], "assistant", set()) == [say("assistant", parts)]
    parts = [{"type": "thinking", "thinking": "hm"}, *text("A")]  # which of the two is it?
    message = {**say("assistant", parts), "reasoning_content": "ah"}
    assert as_messages([message], "assistant", set()) == [message]


def test_in_every_kind_of_data():
    user, assistant = [say("user", text("Q", "?"))], [say("assistant", text("A"))]
    plain = {"prompt": [say("user", "Q?")], "completion": [say("assistant", "A")]}
    pair = {"prompt": user, "chosen": assistant, "rejected": [say("assistant", text("B"))]}
    assert data.load(Dataset.from_list([pair])).dataset[0] == {
        "prompt": plain["prompt"], "chosen": plain["completion"], "rejected": [say("assistant", "B")],
    }  # fmt: skip
    whole = {"chosen": [*user, *assistant], "rejected": [*user, say("assistant", text("B"))]}
    assert data.load(Dataset.from_list([whole])).dataset[0]["prompt"] == plain["prompt"]
    rated = [{"messages": [*user, *assistant], "label": label} for label in (True, False)]
    assert data.load(Dataset.from_list(rated)).dataset[0] == {**plain, "label": True}

    def read(row, reading):
        return plain_data.load(Dataset.from_list([row]), reading).dataset.to_list()

    assert read({"prompt": user, "completion": assistant}, DEMONSTRATIONS) == [plain]
    assert read({"messages": [*user, *assistant]}, DEMONSTRATIONS) == [
        {"messages": plain["prompt"] + plain["completion"]}
    ]
    assert read({"prompt": user, "answer": "4"}, PROMPTS) == [{"prompt": plain["prompt"], "answer": "4"}]
    assert read(pair, PROMPTS) == [{"prompt": plain["prompt"]}]
    # As CSV files hold them.
    encoded = {"messages": json.dumps([*user, *assistant])}
    assert read(encoded, DEMONSTRATIONS) == [{"messages": plain["prompt"] + plain["completion"]}]
    assert read({"prompt": json.dumps(user)}, PROMPTS) == [{"prompt": plain["prompt"]}]
    stream = Dataset.from_list([{"prompt": user, "answer": "4"}]).to_iterable_dataset()
    assert list(plain_data.load(stream, PROMPTS).dataset) == [{"prompt": plain["prompt"], "answer": "4"}]


def test_lists_stay_beside_an_image():
    shown = say("user", [{"type": "image"}, *text("What?")])
    row = {
        "prompt": [shown, say("assistant", "A dot."), say("user", text("Sure?"))],
        "chosen": "Yes",
        "rejected": text("No"),
    }
    row |= {name: [say("assistant", row[name])] for name in ("chosen", "rejected")}
    dataset = data.load(Dataset.from_list([row] * 2, on_mixed_types="use_json")).dataset
    found = dataset[0]
    assert found["prompt"][0]["content"][1]["text"] == "What?"
    # All are lists: TRL would put the images of a row into the first turn of the user whose content is a string.
    assert [type(m["content"]) for name in ("prompt", "chosen", "rejected") for m in found[name]] == [list] * 5
    assert found["prompt"][1]["content"] == text("A dot.")


def test_rows_that_cannot_be_read_are_dropped_and_counted():
    rows = [
        {"messages": [say("user", "q"), say("assistant", "a")]},
        {"messages": [say("user", None), say("assistant", "a")]},
    ]
    dataset, report = plain_data.load(Dataset.from_list(rows), DEMONSTRATIONS)
    assert len(dataset) == 1 and report.kept.tolist() == [0]
    assert "1 row dropped: a message has no role or no text (first: row 1)." in report.sentences()


def test_the_older_call_and_other_names_of_reasoning():
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    [message] = as_messages([call], "user", set())
    assert message["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    assert message["content"] == ""
    [message] = as_messages([{"role": "assistant", "content": "4", "reasoning": "2+2"}], "user", set())
    assert message == {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    # A call that cannot be read stays as the assistant's text.
    [message] = as_messages([{"from": "function_call", "value": "f(1)"}], "user", set())
    assert message == {"role": "assistant", "content": "f(1)"}


def test_a_system_column_of_demonstrations_is_the_first_turn():
    rows = [{"system": "Be kind.", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]
    [row] = plain_data.load(Dataset.from_list(rows), DEMONSTRATIONS).dataset.to_list()
    assert row == {"messages": [say("system", "Be kind."), say("user", "q"), say("assistant", "a")]}


def test_a_prompt_that_ends_with_the_assistant_is_noted():
    prompt = [say("user", "q"), say("assistant", "Sure,")]
    row = {"prompt": prompt, "chosen": [say("assistant", " yes")], "rejected": [say("assistant", " no")]}
    assert any("ends with an assistant turn" in note for note in data.load(Dataset.from_list([row])).report.notes)
    for given, reading in (
        ({"prompt": prompt}, PROMPTS),
        ({"prompt": prompt, "completion": row["chosen"]}, DEMONSTRATIONS),
    ):
        report = plain_data.load(Dataset.from_list([given]), reading).report
        assert any("ends with an assistant turn" in note for note in report.notes)
