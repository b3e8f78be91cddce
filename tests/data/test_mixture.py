"""Mixtures: TRL's own where TRL can read them, and shares of a dataset."""

import json

import pytest
from trl import DatasetMixtureConfig, get_dataset

from trl_ext.data.mixture import open_mixture
from trl_ext.support.errors import UserError


@pytest.fixture
def files(tmp_path):
    """Files of 100, 40 and 7 rows, each with its own name in every row."""
    for name, rows in (("a", 100), ("b", 40), ("c", 7)):
        lines = [json.dumps({"prompt": f"{name}{i}", "chosen": "x", "rejected": "y"}) for i in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def entry(folder, name, **settings):
    return {"path": "json", "data_files": str(folder / f"{name}.jsonl"), **settings}


def prompts(splits):
    return {split: list(rows["prompt"]) for split, rows in splits.items()}


@pytest.mark.parametrize("fractions", [(None, None, None), (0.5, 0.25, 0.25), (1, 1, 1), (3, 1, 0)])
def test_without_shares_it_is_the_mixture_of_trl(files, fractions):
    entries = [
        entry(files, name, **({} if f is None else {"fraction": f})) for name, f in zip("abc", fractions, strict=True)
    ]
    theirs = get_dataset(DatasetMixtureConfig(datasets=[dict(e) for e in entries]))
    assert prompts(open_mixture(entries)) == prompts(theirs)


def test_a_share_is_that_of_its_own_dataset(files):
    entries = [entry(files, "a", share=0.5), entry(files, "b"), entry(files, "c", share=0.5)]
    (found,) = prompts(open_mixture(entries)).values()
    expected = [*(f"a{i}" for i in range(50)), *(f"b{i}" for i in range(40)), *(f"c{i}" for i in range(3))]
    assert found == expected


def test_the_rows_held_out_are_the_same_each_time_the_mixture_is_read(files):
    entries = [entry(files, "a"), entry(files, "b")]
    first, again, other = (
        prompts(open_mixture(entries, test_size=size, seed=seed)) for size, seed in ((0.25, 1), (35, 1), (35, 2))
    )
    assert first == again != other and len(first["test"]) == 35
    assert not set(first["train"]) & set(first["test"])


def test_a_file_is_named_by_its_path_alone(files):
    entries = [{"path": str(files / "b.jsonl"), "split": "train[:10%]"}, {"path": "embedded", "share": 0.1}]
    names = open_mixture([entries[0]])
    assert prompts(names) == {"train": ["b0", "b1", "b2", "b3"]}
    assert 0 < len(open_mixture([entries[1]])["train"]) < len(open_mixture([{"path": "embedded"}])["train"]) / 5


@pytest.mark.parametrize(
    ("change", "streaming", "words"),
    [
        ({"columns": ["prompt", "chosne"]}, False, r"a\.jsonl has no column `chosne` \(did you mean `chosen`\?\)"),
        ({"share": 0.5}, True, "is a stream, whose number of rows is unknown. Remove `share`"),
        ({"fraction": 0.5}, True, "`fraction` needs the number of rows"),
        ({"data_files": "nowhere.jsonl"}, False, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_mixed(files, change, streaming, words):
    with pytest.raises(UserError, match=words):
        open_mixture([entry(files, "a") | change], streaming=streaming)
