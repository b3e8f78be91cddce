"""Columns inside columns, and names in other capitals."""

import json

import pytest
from datasets import Dataset

from trl_ext import data
from trl_ext.data.column_names import known_names
from trl_ext.data.column_paths import follow, parse
from trl_ext.data.recognise_file import recognise_file
from trl_ext.support.errors import UserError

NESTED = [
    {"task": {"text": f"q{i}"}, "replies": [{"body": f"good{i}", "n": 1}, {"body": f"bad{i}", "n": 2}]}
    for i in range(3)
]
MAPPING = {"prompt": "task.text", "chosen": "replies[0].body", "rejected": "replies[-1].body"}
PAIRS = [{"prompt": f"q{i}", "chosen": f"good{i}", "rejected": f"bad{i}"} for i in range(3)]


def test_paths():
    value = {"a": [{"b": 1}, {"b": [2, 3]}]}
    for text, wanted in (
        ("c.a[0].b", 1),
        ("c.a[1].b[-1]", 3),
        ("c.a.b", [1, [2, 3]]),
        ("c.a[9].b", None),
        ("c.x", None),
    ):
        assert follow(value, parse(text, ["c"]).steps) == wanted
    assert parse("c", ["c"]) is None and parse("c.d", ["c.d"]) is None and parse("c[x]", ["c"]) is None


@pytest.mark.parametrize("name", ["n.jsonl", "n.parquet", "n.csv"])
def test_nested_columns(name, write):
    rows = NESTED if name != "n.csv" else [{k: json.dumps(v) for k, v in row.items()} for row in NESTED]
    path = write(name, rows)
    assert data.load(path, columns=MAPPING).dataset.to_list() == PAIRS
    assert list(data.load(path, columns=MAPPING, streaming=True).dataset) == PAIRS
    if name != "n.parquet":
        assert recognise_file(path, MAPPING).format == "trl"


def test_a_key_of_a_list_is_a_list(write):
    rows = [{"prompt": "q", "replies": [{"body": "bad", "mark": {"of": 1}}, {"body": "good", "mark": {"of": 4}}]}]
    columns = {"responses": "replies.body", "scores": "replies.mark.of"}
    for source in (Dataset.from_list(rows), write("n.jsonl", rows)):
        dataset, report = data.load(source, columns=columns)
        assert dataset.to_list() == [{"prompt": "q", "chosen": "good", "rejected": "bad"}]
        assert report.format == "ranked"


def test_a_nested_column_may_replace_its_own():
    rows = [{"prompt": {"text": "q"}, "chosen": "a", "rejected": "b"}]
    assert data.load(Dataset.from_list(rows), columns={"prompt": "prompt.text"}).dataset["prompt"][:] == ["q"]


def test_messages_and_numbers_keep_their_types():
    rows = [
        {"log": {"turns": [{"role": "user", "content": "q"}], "a": 3, "b": 4}, "response_a": "x", "response_b": "y"}
    ]
    columns = {"messages": "log.turns", "score_a": "log.a", "score_b": "log.b"}
    dataset, _ = data.load(Dataset.from_list(rows), columns=columns)
    assert dataset[0]["prompt"] == [{"role": "user", "content": "q"}] and dataset[0]["chosen"][0]["content"] == "y"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("replies[0].bdy", r"nothing at `replies\[0\].bdy` for `chosen` \(did you mean `body`\?\): `replies\[0\]` has the keys body, n"),
        ("replies[5].body", r"`replies` holds lists of at most 2 values"),
        ("task.text.more", r"`task.text` holds no objects"),
        ("reply[0].body", r"has no column `reply` for `chosen` \(did you mean `replies`\?\)"),
    ],
)  # fmt: skip
def test_a_path_to_nothing(path, words, write):
    file = write("n.jsonl", NESTED)
    for read in (lambda columns: data.load(file, columns=columns), lambda columns: recognise_file(file, columns)):
        with pytest.raises(UserError, match=words):
            read(MAPPING | {"chosen": path})


def test_two_places_from_one_column_but_not_from_one_path():
    with pytest.raises(UserError, match=r"`replies\[0\].body` is used twice"):
        data.load(Dataset.from_list(NESTED), columns=MAPPING | {"rejected": "replies[0].body"})


def test_other_spellings_of_known_names():
    names = ("Prompt", "human_ref_A", "Response B", "chosenResponse", "kto-tag", "Foo")
    assert known_names(names) == {
        "Prompt": "prompt",
        "human_ref_A": "human_ref_a",
        "Response B": "response_b",
        "chosenResponse": "chosen_response",
        "kto-tag": "kto_tag",
    }
    assert known_names(("prompt", "Prompt")) == {} and known_names(("PROMPT", "Prompt")) == {}


def test_capitals_in_a_file(write):
    rows = [{"Prompt": row["prompt"], "CHOSEN": row["chosen"], "Rejected": row["rejected"]} for row in PAIRS]
    for name in ("c.csv", "c.jsonl"):
        path = write(name, rows)
        assert data.load(path).dataset.to_list() == PAIRS
        assert recognise_file(path).format == "trl"
    dataset, report = data.load(Dataset.from_list([row | {"prompt": "other"} for row in rows]))
    assert dataset["prompt"][:] == ["other"] * 3 and report.ignored == ("Prompt",)


def test_the_mapping_goes_by_the_name_in_the_file():
    rows = [{"Prompt": "p", "Other": "q", "chosen": "a", "rejected": "b"}]
    assert data.load(Dataset.from_list(rows), columns={"prompt": "Other"}).dataset["prompt"][:] == ["q"]


def test_tools_of_an_openai_file():
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": "q"}], "tools": [tool]},
            "preferred_output": [{"role": "assistant", "content": "a"}],
            "non_preferred_output": [{"role": "assistant", "content": "b"}],
        }
    ]
    dataset, report = data.load(Dataset.from_list(rows))
    assert report.format == "openai" and dataset["tools"][0][0]["function"]["name"] == "f"
