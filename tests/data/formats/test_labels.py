"""Verdicts on single answers, in every spelling; what is not two classes is refused."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from trl_ext import data
from trl_ext.support.errors import UserError

SPELLINGS = [
    (True, False),
    (1, 0),
    (1, -1),
    (1.0, -1.0),
    ("1", "-1"),
    ("+1", "-1"),
    ("true", "false"),
    (" TRUE", "False "),
    ("desirable", "undesirable"),
    ("good", "bad"),
    ("chosen", "rejected"),
    ("up", "down"),
    ("thumbs_up", "Thumbs down"),
    ("👍", "👎"),
    ("👍🏽", "👎️"),
]


def rows(*labels):
    return [{"prompt": "p", "completion": f" answer {i}", "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(("good", "bad"), SPELLINGS)
def test_spelling(good, bad):
    dataset, report = data.load(Dataset.from_list(rows(good, bad, bad)))
    assert dataset["label"][:] == [True, False, False]
    assert dataset.features["label"] == Value("bool")
    assert (report.desirable, report.undesirable) == (1, 2)


def test_csv_labels_are_text(write):
    dataset = data.load(write("singles.csv", rows(1, -1, 1))).dataset
    assert dataset["label"][:] == [True, False, True]


def test_labels_of_mixed_types_in_one_file(write):
    dataset, report = data.load(write("singles.jsonl", rows(True, 0, "bad", "good", None, "who knows")))
    assert dataset["label"][:] == [True, False, False, True]
    assert sum(dropped.rows for dropped in report.dropped.values()) == 2


def test_zero_beside_plus_and_minus_one_is_neither():
    dataset, report = data.load(Dataset.from_list(rows(1, 0, -1)))
    assert dataset["label"][:] == [True, False]
    assert [(d.rows, d.first) for d in report.dropped.values()] == [(1, 1)]


@pytest.mark.parametrize(
    ("names", "expected"), [(["rejected", "chosen"], [False, True]), (["good", "bad"], [True, False])]
)
def test_class_names_count_more_than_their_numbers(names, expected):
    features = Features({"prompt": Value("string"), "completion": Value("string"), "label": ClassLabel(names=names)})
    dataset = data.load(Dataset.from_list(rows(0, 1), features=features)).dataset
    assert dataset["label"][:] == expected


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((1, 2, 3, 4, 5), ("`label` holds 1, 2, 3, 4, 5", "not two classes", 'rows["label"] >= 4')),
        ((0.1, 0.7, 0.73), ("0.1, 0.7, 0.73", "not two classes")),
        (("red", "green"), ("'green', 'red'", "desirable")),
        (([1], [0]), ("lists or objects",)),
    ],
)
def test_what_is_not_two_classes_is_refused(labels, words):
    with pytest.raises(UserError) as error:
        data.load(Dataset.from_list(rows(*labels)))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("label", "word"), [(True, "desirable"), (-1, "undesirable")])
def test_one_class_teaches_nothing(label, word):
    given = Dataset.from_list(rows(label, label))
    with pytest.raises(UserError, match=f"all 2 completions are {word}, .* both labels"):
        data.load(given)
    assert len(data.load(given, training=False).dataset) == 2


def test_missing_labels_are_counted():
    report = data.load(Dataset.from_list(rows(True, None, False))).report
    assert "1 of 3 rows dropped: a required value is missing (null) (first: row 1)." in report.sentences()
