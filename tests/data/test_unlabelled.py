"""Demonstrations and prompts in the formats of preference data, without preferences."""

import pytest
from datasets import Dataset

from tests.data.rows import SYSTEM, TRIPLES, assistant, system, user
from trl_ext.data import plain_data
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.prompts import PROMPTS
from trl_ext.data.row_kinds import kind_of_row
from trl_ext.support.errors import UserError

TURNS = [{"prompt": [user(q)], "completion": [assistant(good)]} for q, good, _ in TRIPLES]
PLAIN = [{"prompt": q, "completion": good} for q, good, _ in TRIPLES]
CASES = {
    "alpaca": ([{"instruction": q, "input": "", "output": g} for q, g, _ in TRIPLES], TURNS),
    "alpaca, response": ([{"Instruction": q, "Response": g} for q, g, _ in TRIPLES], TURNS),
    "question and answer": ([{"question": q, "answer": g, "id": 3} for q, g, _ in TRIPLES], TURNS),
    "query, history": ([{"query": q, "history": [], "response": g} for q, g, _ in TRIPLES], TURNS),
    "prompt and response": ([{"prompt": q, "response": g} for q, g, _ in TRIPLES], PLAIN),
    "prompt and a message": ([{"prompt": [user(q)], "response": [assistant(g)]} for q, g, _ in TRIPLES], TURNS),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("streaming", [False, True])
def test_demonstrations(name, streaming, write):
    rows, wanted = CASES[name]
    dataset, report = plain_data.load(write("d.jsonl", rows), DEMONSTRATIONS, streaming=streaming)
    assert list(dataset) == wanted
    assert "Labels" not in str(report) and "label" not in str(report)
    if not streaming:
        assert "prompt/completion as" in report.sentences()[0] and ", 2 completions." in report.sentences()[0]
        assert all(kind_of_row(row).startswith("completion without a label, ") for row in rows)


@pytest.mark.parametrize("name", CASES)
def test_prompts(name, write):
    rows, wanted = CASES[name]
    dataset, _ = plain_data.load(write("d.jsonl", rows), PROMPTS)
    assert dataset["prompt"][:] == [row["prompt"] for row in wanted]


def test_other_columns_stay_for_reward_functions():
    rows = [{"question": None, "answer": "0", "level": 0}] + [
        {"question": f"{n}?", "answer": f"{n}", "level": n} for n in (1, 2)
    ]
    dataset, report = plain_data.load(Dataset.from_list(rows), PROMPTS)
    assert dataset.to_list() == [{"prompt": [user(f"{n}?")], "level": n, "answer": f"{n}"} for n in (1, 2)]
    assert report.kept.tolist() == [1, 2] and report.ignored == ()


def test_system_and_tools_are_kept():
    rows = [{"system": SYSTEM, "question": "q", "answer": "a", "tools": '[{"name": "f"}]'}]
    dataset, _ = plain_data.load(Dataset.from_list(rows), DEMONSTRATIONS)
    assert dataset.to_list() == [
        {"prompt": [system(SYSTEM), user("q")], "completion": [assistant("a")], "tools": rows[0]["tools"]}
    ]


def test_rows_are_dropped_and_keep_their_numbers():
    rows = [{"question": "q", "answer": None}, {"question": "p", "answer": ""}, {"question": "r", "answer": "a"}]
    dataset, report = plain_data.load(Dataset.from_list(rows), DEMONSTRATIONS)
    assert dataset["completion"][:] == [[assistant("a")]] and report.kept.tolist() == [2]
    assert [dropped.first for dropped in report.dropped.values()] == [0, 1]


def test_conversations_under_other_names_are_whole_conversations():
    """TRL learns from all turns of `messages`, so the last turn is not split off."""
    for rows in (
        [{"conversation": [{"input": "q", "output": "a"}, {"input": "p", "output": "b"}]}],
        [
            {
                "dialogue": [
                    {"from": "human", "content": "q"},
                    {"from": "gpt", "content": "a"},
                    user("p"),
                    assistant("b"),
                ]
            }
        ],
    ):
        dataset, _ = plain_data.load(Dataset.from_list(rows), DEMONSTRATIONS)
        texts = [(message["role"], message["content"]) for message in dataset[0]["messages"]]
        assert texts == [("user", "q"), ("assistant", "a"), ("user", "p"), ("assistant", "b")]


def test_what_fits_nothing_is_named():
    with pytest.raises(UserError, match=r"which are not recognised\. Needed are `messages`"):
        plain_data.load(Dataset.from_list([{"a": "b"}]), DEMONSTRATIONS)
    with pytest.raises(UserError, match="has no column `prompt`"):
        plain_data.load(Dataset.from_list([{"a": "b"}]), PROMPTS)
