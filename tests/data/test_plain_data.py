"""Prompts to answer and answers to imitate, of preference data and of their own columns."""

import pytest
from datasets import Dataset

from trl_ext.data import plain_data
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.prompts import PROMPTS
from trl_ext.support.errors import UserError

PAIRS = [{"prompt": f"p{i}", "chosen": f" good {i}", "rejected": f" bad {i}"} for i in range(3)]
RATED = [{"prompt": f"p{i}", "completion": f" a{i}", "label": i != 1} for i in range(3)]


def load(rows, reading, **options):
    dataset, report = plain_data.load(Dataset.from_list(rows), reading, **options)
    return dataset.to_list(), report.sentences()


def test_prompts_of_pairs():
    rows, sentences = load(PAIRS, PROMPTS)
    assert rows == [{"prompt": f"p{i}"} for i in range(3)]
    assert "only the prompts are used, 3 pairs." in sentences[0]


def test_prompts_of_rated_answers():
    assert load(RATED, PROMPTS)[0] == [{"prompt": f"p{i}"} for i in range(3)]


def test_a_column_of_prompts_keeps_what_reward_functions_read():
    rows, sentences = load([{"prompt": "2+2?", "solution": "4"}, {"prompt": "", "solution": "5"}], PROMPTS)
    assert rows == [{"prompt": "2+2?", "solution": "4"}]
    assert sentences == ["the given dataset (train): prompts, 1 row.", "1 row dropped: the prompt is empty."]


def test_conversations_and_named_columns():
    talk = [{"role": "user", "content": "hello"}]
    assert load([{"question": talk, "id": 1}], PROMPTS, columns={"prompt": "question"})[0] == [
        {"prompt": talk, "id": 1}
    ]


def test_no_prompts():
    with pytest.raises(UserError, match=r"has no column `prompt`. Its columns are ask"):
        load([{"ask": "x"}], PROMPTS)
    with pytest.raises(UserError, match="has no rows that can be used"):
        load([{"prompt": ""}], PROMPTS)


def test_demonstrations_of_preferences():
    rows, sentences = load(PAIRS, DEMONSTRATIONS)
    assert rows == [{"prompt": f"p{i}", "completion": f" good {i}"} for i in range(3)]
    assert "only the chosen completions are used" in sentences[0]
    rows, sentences = load(RATED, DEMONSTRATIONS)
    assert rows == [{"prompt": f"p{i}", "completion": f" a{i}"} for i in (0, 2)]
    assert "only the desirable completions are used" in sentences[0]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"prompt": "a", "completion": "b"},
        {"text": "a b"},
    ],
    ids=["messages", "prompt and completion", "text"],
)
def test_demonstrations_of_their_own_columns(row):
    assert load([{**row, "source": "x"}], DEMONSTRATIONS)[0] == [row]


def test_no_demonstrations():
    with pytest.raises(UserError, match="Needed are `messages`, or `prompt` and `completion`, or `text`"):
        load([{"question": "x"}], DEMONSTRATIONS)


def test_rows_without_content_are_counted_with_their_numbers():
    rows = [{"prompt": "", "chosen": " a", "rejected": " b"}, {"prompt": "p", "chosen": "", "rejected": " b"}, *PAIRS]
    dataset, report = plain_data.load(Dataset.from_list(rows), PROMPTS)
    assert len(dataset) == report.rows_out == 4 and report.kept.tolist() == [1, 2, 3, 4]
    assert "1 of 5 rows dropped: the prompt is empty (first: row 0)." in report.sentences()
    dataset, report = plain_data.load(Dataset.from_list(rows), DEMONSTRATIONS)
    assert len(dataset) == report.rows_out == 4 and report.kept.tolist() == [0, 2, 3, 4]
    assert report.examples["the completion is empty"] == (1,)
    dataset, report = plain_data.load(Dataset.from_list(RATED), DEMONSTRATIONS)
    assert report.kept.tolist() == [0, 2]
    dataset, report = plain_data.load(
        Dataset.from_list([{"text": "a"}, {"text": None}, {"text": "b"}]), DEMONSTRATIONS
    )
    assert dataset.to_list() == [{"text": "a"}, {"text": "b"}] and report.kept.tolist() == [0, 2]
    assert report.sentences()[1:] == ["1 row dropped: `text` is empty."]


def test_nothing_left_is_refused():
    with pytest.raises(UserError, match=r"none of 2 rows can be used.*2 rows: the prompt is empty"):
        plain_data.load(Dataset.from_list([{"prompt": "", "chosen": "a", "rejected": "b"}] * 2), PROMPTS)
