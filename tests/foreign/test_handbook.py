"""Files of the alignment handbook: its mixtures keep the number of rows of each dataset."""

import json

import pytest

from trl_ext.data.mixture import open_mixture
from trl_ext.data.sources import open_source
from trl_ext.drafting.conversion import convert

ROWS = {"a": 200, "b": 80}


@pytest.fixture
def folders(tmp_path):
    """Datasets of 200 and 80 rows for training, each with 10 for tests."""
    for name, count in ROWS.items():
        for split, rows in (("train", count), ("test", 10)):
            lines = [
                json.dumps({"prompt": f"{name} {split} {i}", "chosen": "x", "rejected": "y"}) for i in range(rows)
            ]
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def settings(file):
    made = convert(file)
    return {key: line.value for key, line in made.settings.items()}


def rows_of(found):
    """How many rows of each dataset a recipe trains on."""
    if "datasets" in found:
        rows = open_mixture(found["datasets"], test_size=found.get("test_split_size"))["train"]
    else:
        split = found.get("dataset_train_split", "train")
        rows = open_source(found["dataset_name"], split=split, config=None, revision=None, streaming=False)[0]
    names = [prompt.split()[0] for prompt in rows["prompt"]]
    return {name: names.count(name) for name in dict.fromkeys(names)}


@pytest.mark.parametrize(
    ("weights", "expected"),
    # The handbook keeps `int(weight × rows)` rows of each dataset.
    [((1.0, 1.0), {"a": 200, "b": 80}), ((0.5, 1.0), {"a": 100, "b": 80}), ((0.125, 0.03), {"a": 25, "b": 2})],
)
def test_a_weight_is_a_share_of_its_own_dataset(folders, weights, expected):
    entries = [
        {
            "id": str(folders / name),
            "config": None,
            "split": "train",
            "columns": ["prompt", "chosen"],
            "weight": weight,
        }
        for name, weight in zip(ROWS, weights, strict=True)
    ]
    found = settings({"dataset_mixture": {"datasets": entries, "seed": 0}})
    assert rows_of(found) == expected
    assert all(entry["columns"] == ["prompt", "chosen"] for entry in found["datasets"])
    mixer = {str(folders / name): weight for name, weight in zip(ROWS, weights, strict=True)}
    assert rows_of(settings({"dataset_mixer": mixer})) == expected


@pytest.mark.parametrize(("share", "rows"), [(1.0, 200), (0.5, 100), (0.29, 58), (0.125, 25)])
def test_one_dataset(folders, share, rows):
    found = settings({"dataset_mixer": {str(folders / "a"): share}, "dataset_splits": ["train", "test"]})
    assert rows_of(found) == {"a": rows}


@pytest.mark.parametrize("size", [0.25, 70])
def test_the_test_split_keeps_its_size(folders, size):
    entries = [{"id": str(folders / name), "weight": 1.0} for name in ROWS]
    found = settings({"dataset_mixture": {"datasets": entries, "test_split_size": size}})
    assert sum(rows_of(found).values()) == 210


def test_one_dataset_keeps_its_test_split():
    file = {"dataset_mixer": {"org/a": 0.5}, "dataset_splits": ["train_prefs", "test_prefs"], "eval_strategy": "steps"}
    assert settings(file) == {
        "dataset_name": "org/a",
        "dataset_train_split": "train_prefs[:50%]",
        "dataset_test_split": "test_prefs",
        "eval_strategy": "steps",
    }


@pytest.mark.parametrize("first", ["eval_strategy", "dataset_mixer"])
def test_a_mixture_of_several_is_not_evaluated_on_their_test_splits(first):
    file = {"eval_strategy": "steps", "dataset_mixer": {"org/a": 1.0, "org/b": 1.0}}
    made = convert({first: file[first], **file, "dataset_configs": ["x", None]})
    assert made.settings["eval_strategy"].value == "no"
    assert "`eval_size`" in made.settings["eval_strategy"].why
    assert made.settings["datasets"].value == [
        {"path": "org/a", "name": "x", "split": "train"},
        {"path": "org/b", "split": "train"},
    ]


def test_files_for_supervised_fine_tuning_are_recognised():
    found = settings({"dataset_mixer": {"org/a": 1.0}, "max_seq_length": 2048})
    assert found["trainer"] == "sft" and found["max_length"] == 2048
