"""Evaluation rows that are trained on are counted."""

from datasets import Dataset

from tests.data.test_holdout import rows
from trl_ext.data.overlap import overlap


def test_shared_rows_and_prompts_are_counted():
    train = rows(["a", "b", "c", "c"])
    evaluation = Dataset.from_list(
        [train[0], train[3], {"prompt": "b", "chosen": "new", "rejected": "bad"}, *rows("xy")]
    )
    assert overlap(train, evaluation) == (2, 1)
    assert overlap(train, rows("xy")) == (0, 0)
    # The same by comparing every row with every row.
    texts = [str(row) for row in train]
    assert sum(str(row) in texts for row in evaluation) == 2


def test_pairs_and_labelled_completions_are_compared_by_prompt():
    single = Dataset.from_list([{"prompt": "a", "completion": "x", "label": True}, {"prompt": "z", "completion": "x"}])
    assert overlap(rows(["a", "b"]), single) == (0, 1)


def test_a_shared_text_in_another_column_is_not_the_same_row():
    first, second = ({"prompt": "p", "chosen": a, "rejected": b} for a, b in (("x", "y z"), ("x y", "z")))
    assert overlap(Dataset.from_list([first]), Dataset.from_list([second])) == (0, 1)
