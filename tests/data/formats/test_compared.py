"""Two answers and which is better: every spelling of the verdict, ties, and what is too ambiguous to read."""

import json

import pytest
from datasets import Dataset

from trl_ext import data
from trl_ext.data.formats.row_outcome import Reason
from trl_ext.data.recognise_file import recognise_file
from trl_ext.support.errors import UserError


def rows(column, *values, ends="ab"):
    answers = {f"response_{ends[0]}": "first", f"response_{ends[1]}": "second"}
    return Dataset.from_list([{"prompt": f"{i}", **answers, column: value} for i, value in enumerate(values)])


def chosen(dataset):
    return dataset["chosen"][:]


@pytest.mark.parametrize(
    ("ends", "first", "second", "tie"),
    [
        ("ab", "a", "b", "tie"),
        ("ab", " A", "Response B", "Tie (both bad)"),
        ("ab", "model_a", "response_b", "draw"),
        ("12", 1, 2, None),
        ("12", "1", "2", "neither"),
        ("01", 0, 1, None),
        ("01", 0.0, 1.0, float("nan")),
    ],
)
def test_a_winner_is_named_by_the_ending_of_its_column(ends, first, second, tie):
    dataset, report = data.load(rows("winner", first, second, tie, ends=ends))
    assert chosen(dataset) == ["first", "second"] and dataset["rejected"][:] == ["second", "first"]
    expected = Reason.TIE if isinstance(tie, str) else Reason.NULL
    assert list(report.dropped) == [expected.value] and report.kept.tolist() == [0, 1]


def test_zero_and_one_name_neither_a_nor_b():
    with pytest.raises(
        UserError, match=r"none of 2 rows can be used.*2 rows: the winner is neither a tie nor the ending"
    ):
        data.load(rows("winner", 0, 1))
    with pytest.raises(UserError, match="the winner is neither"):
        data.load(rows("winner", True, False))


def test_a_model_that_ends_in_a_number_is_no_answer():
    dataset, report = data.load(rows("winner", "Llama 2", "Claude 1", "Model 2", "1", ends="12"))
    assert report.kept.tolist() == [2, 3] and chosen(dataset) == ["second", "first"]
    assert list(report.dropped) == [Reason.BAD_WINNER.value]


def test_turns_of_an_arena_are_put_together():
    """As in lmsys-arena-human-preference-55k: lists of turns, spelled out; half an emoji, no reply, and one too few."""
    spelled = [
        (["hi", "and?"], ["one", "two"], ["a", "b"], 1),
        (["hi"], ["one"], ["a"], 0),
        (["hi"], [None], ["a"], 0),
        (["hi"], ["\ud83d"], ["a"], 0),
        (["hi", "and?"], ["one"], ["a", "b"], 0),
    ]
    table = [
        {"prompt": json.dumps(asked), "response_a": json.dumps(a), "response_b": json.dumps(b)}
        | {"winner_model_a": won, "winner_model_b": 1 - won}
        for asked, a, b, won in spelled
    ]
    dataset, report = data.load(Dataset.from_list(table))
    assert report.kept.tolist() == [0, 1] and list(report.dropped) == [Reason.BAD_MESSAGE.value]

    def texts(messages):
        return [f"{message['role'][0]} {message['content']}" for message in messages]

    assert [texts(row["prompt"]) for row in dataset] == [["u hi"], ["u hi"]]
    assert [texts(row["chosen"]) for row in dataset] == [["a one", "u and?", "a two"], ["a a"]]
    assert [texts(row["rejected"]) for row in dataset] == [["a a", "u and?", "a b"], ["a one"]]
    assert "prompt" not in str(report).partition("Columns not used")[2]
    table[0]["prompt"] = "no list"  # then answers that happen to be lists are texts
    assert data.load(Dataset.from_list(table[:2]))[0]["chosen"][0] == '["one", "two"]'


def test_the_prompt_may_be_a_conversation():
    table = [
        {"conversations": [{"from": "human", "value": "q"}], "response_a": "first", "response_b": "second"}
        | {"winner": winner}
        for winner in "ab"
    ]
    dataset, _ = data.load(Dataset.from_list(table))
    assert dataset["prompt"][0] == [{"role": "user", "content": "q"}]
    assert [row["chosen"][0]["content"] for row in dataset] == ["first", "second"]


def test_the_higher_score_is_better_and_equal_ones_are_dropped(write):
    scores = [(5, 2), (1, 2.5), (3, 3), (None, 1), ("much", 1)]
    table = [
        {"prompt": "q", "response_a": "first", "response_b": "second", "score_a": a, "score_b": b} for a, b in scores
    ]
    path = write("scores.csv", table)
    dataset, report = data.load(path)
    better = [(a, b) for a, b in scores if isinstance(a, int) and a != b]
    assert chosen(dataset) == ["first" if a > b else "second" for a, b in better]
    reasons = {Reason.TIE: 2, Reason.NULL: 3, Reason.BAD_SCORE: 4}
    assert {reason: gone.first for reason, gone in report.dropped.items()} == {
        reason.value: row for reason, row in reasons.items()
    }
    assert "compared by `score_a` and `score_b`" in report.sentences()[0]
    assert recognise_file(path).format == "compared"


def test_one_column_for_each_outcome():
    table = Dataset.from_list(
        [
            {"prompt": "q", "response_a": "first", "response_b": "second", "winner_model_a": a, "winner_model_b": b}
            for a, b in ((1, 0), (0, 1), (0, 0))
        ]
    )
    assert chosen(data.load(table).dataset) == ["first", "second"]


def test_as_single_answers_and_as_a_stream(write):
    path = write("pairs.jsonl", rows("winner", "b", "a").to_list())
    single = data.unpair(data.load(path)).dataset
    assert single["completion"][:] == ["second", "first", "first", "second"]
    assert [row["chosen"] for row in data.load(path, streaming=True).dataset] == ["second", "first"]


def test_of_three_answers_no_two_are_a_pair():
    table = rows("winner", "a").add_column("response_c", ["third"])
    with pytest.raises(UserError, match="are not recognised"):
        data.load(table)


def test_chosen_and_rejected_go_before():
    table = Dataset.from_list(
        [{"prompt": "q", "chosen": "good", "rejected": "bad", "response_a": "x", "response_b": "y", "winner": "a"}]
    )
    assert chosen(data.load(table).dataset) == ["good"]


def test_so_do_single_answers_with_a_label():
    answer = {"prompt": "q", "completion": "one", "output_1": "x", "output_2": "y", "preference": 2}
    dataset, report = data.load(Dataset.from_list([answer | {"label": True}, answer | {"label": False}]))
    assert not report.paired and dataset["label"][:] == [True, False]
