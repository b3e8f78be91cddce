"""Where data may lie, and what is said when it does not."""

from types import SimpleNamespace

import datasets
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from tests.data.rows import CONVERSATIONAL, PLAIN
from trl_ext import data
from trl_ext.support.errors import UserError

FILES = ["p.jsonl", "p.jsonl.gz", "p.json", "p.csv", "p.tsv", "p.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_file(name, write):
    dataset, report = data.load(write(name, PLAIN))
    assert dataset.to_list() == PLAIN
    assert str(report).startswith(f"{name} (train): TRL's own columns")


def test_messages_written_as_text_in_a_csv(write):
    import json

    for spell in (json.dumps, repr):  # as pandas and the csv module write them
        rows = [{key: spell(value) for key, value in row.items()} for row in CONVERSATIONAL]
        dataset = data.load(write(f"{spell.__name__}.csv", rows)).dataset
        assert dataset.to_list() == CONVERSATIONAL


def test_one_answer_that_happens_to_be_json_stays_text():
    rows = [*PLAIN, {**PLAIN[0], "chosen": '[{"role": "user", "content": "Hi"}]'}]
    assert data.load(Dataset.from_list(rows)).dataset.to_list() == rows


def test_csv_answers_that_look_like_numbers_or_like_nothing(write):
    rows = [
        {"prompt": "6 × 7?", "chosen": "42", "rejected": "None"},
        {"prompt": "x?", "chosen": "NA", "rejected": "1e5"},
        {"prompt": "y?", "chosen": "", "rejected": "z"},
    ]
    dataset, report = data.load(write("p.csv", rows))
    assert dataset.to_list() == rows[:2]
    assert "missing (null) (first: row 2)" in str(report)


def test_directory_of_files_and_its_splits(write, tmp_path):
    write("set/train.jsonl", PLAIN)
    write("set/test.jsonl", PLAIN[:1])
    assert data.load(tmp_path / "set").dataset.to_list() == PLAIN
    assert data.load(tmp_path / "set", split="test").dataset.to_list() == PLAIN[:1]
    assert data.splits(tmp_path / "set") == ("train", "test")
    with pytest.raises(UserError, match=r"set has no split `tset` \(did you mean `test`\?\)\. It has train, test"):
        data.load(tmp_path / "set", split="tset")


def test_configurations_of_a_directory(write, tmp_path):
    for name in ("one", "two"):
        write(f"set/{name}.jsonl", PLAIN)
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n" + "".join(f"- config_name: {n}\n  data_files: {n}.jsonl\n" for n in ("one", "two")) + "---\n"
    )
    assert data.load(tmp_path / "set", config="two").dataset.to_list() == PLAIN
    with pytest.raises(UserError, match=r"set has several configurations. Set `dataset_config` to one of one, two"):
        data.load(tmp_path / "set")
    with pytest.raises(UserError, match=r"no configuration `tow` \(did you mean `two`\?\)\. .* one of one, two\."):
        data.load(tmp_path / "set", config="tow")


def test_save_to_disk(tmp_path):
    Dataset.from_list(PLAIN).save_to_disk(tmp_path / "one")
    DatasetDict(train=Dataset.from_list(PLAIN), test=Dataset.from_list(PLAIN[:1])).save_to_disk(tmp_path / "two")
    assert data.load(tmp_path / "one").dataset.to_list() == PLAIN
    assert data.load(tmp_path / "two", split="test").dataset.to_list() == PLAIN[:1]
    assert (data.splits(tmp_path / "one"), data.splits(tmp_path / "two")) == (("train",), ("train", "test"))
    with pytest.raises(UserError, match=r"two has no split `validation`. It has train, test"):
        data.load(tmp_path / "two", split="validation")


def test_slices(write, tmp_path):
    path = write("p.jsonl", PLAIN)
    Dataset.from_list(PLAIN).save_to_disk(tmp_path / "one")
    for source in (path, tmp_path / "one", DatasetDict(train=Dataset.from_list(PLAIN))):
        assert data.load(source, split="train[1:]").dataset.to_list() == PLAIN[1:]
        assert data.load(source, split="train[:50%]").dataset.to_list() == PLAIN[:1]


def test_a_stream_is_converted_as_it_comes(write):
    rows = [
        {"chosen": f"\n\nHuman: {i}\n\nAssistant: a", "rejected": f"\n\nHuman: {i}\n\nAssistant: b"} for i in range(5)
    ]
    rows[3]["chosen"] = None
    dataset, report = data.load(write("p.jsonl", rows), streaming=True)
    assert [row["prompt"][0]["content"] for row in dataset] == ["0", "1", "2", "4"]
    assert report.rows_out is None and "Streamed" in str(report)
    single = list(data.unpair(data.Loaded(dataset, report)).dataset)
    assert sum(row["label"] for row in single) == 4 and len(single) == 8


# What cannot be read.


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "p.jsonl",
            b'{"prompt": "a"}\n{"prompt": \n',
            "p.jsonl cannot be read: line 2 is not JSON (Expecting value",
        ),
        ("p.jsonl", b'{"prompt": "\xff\xfe"}\n', "line 1 is not UTF-8 (byte 0xff). Correct it, or convert"),
        (
            "p.jsonl",
            b'{"prompt": "a"}\n{"prompt": "a\tb"}\n',
            r"line 2 is not JSON (Invalid control character '\t' at column 14)",
        ),
        ("p.json", b'[{"prompt": "a"},\n {"p', "line 2 is not JSON (Unterminated string starting at column 3)"),
        ("p.csv", "prompt,chosen,rejected\na,gööd,b\n".encode("latin1"), "line 2 is not UTF-8 (byte 0xf6)"),
        ("p.csv", "prömpt,chosen\na,b\n".encode("latin1"), "with `iconv -f latin1 -t utf-8 p.csv > utf8.csv`"),
        ("p.jsonl", b'{"prompt": "\\ud83d x"}\n', "line 1 has half of a surrogate pair"),
        ("p.jsonl", b"\n\n", "it holds no rows"),
        ("p.jsonl", b"", "p.jsonl is empty (0 bytes)"),
        ("p.json", b'[{"prompt": "a"}, {"p', "line 1 is not JSON"),
        ("p.json", b"[]", "it holds no rows"),
        ("p.jsonl.gz", b"no gzip at all", "p.jsonl.gz cannot be read: "),
        ("p.csv", b"prompt,chosen,rejected\na,b,c,d,e\nf", "p.csv cannot be read: "),
        ("p.parquet", b"nonsense", "p.parquet cannot be read: "),
        ("p.pkl", b"\x80\x04.", "p.pkl is not a kind of file that holds preference data"),
        ("p", b"x", "Allowed are .json, .jsonl"),
    ],
)
def test_unreadable_file(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        data.load(tmp_path / name)
    assert words in str(error.value)


def test_a_file_has_one_split(write):
    with pytest.raises(UserError, match="one file, which has the split `train` only, and `test` was asked for"):
        data.load(write("p.jsonl", PLAIN), split="test")


def test_no_rows(write):
    with pytest.raises(UserError, match="has no rows"):
        data.load(Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []}))
    path = write("p.csv", PLAIN)
    path.write_text("prompt,chosen,rejected\n")
    with pytest.raises(UserError, match=r"no rows|cannot be read"):
        data.load(path)


def test_missing_path_names_the_nearest(write, tmp_path, monkeypatch):
    write("pairs.jsonl", PLAIN)
    with pytest.raises(UserError, match=r"no file or directory .*pears\.jsonl \(did you mean `pairs\.jsonl`\?\)"):
        data.load(tmp_path / "pears.jsonl")
    with pytest.raises(UserError, match=r"holds pairs\.jsonl"):
        data.load(tmp_path / "something_else.csv")
    with pytest.raises(UserError, match=r"there is no directory .*nowhere\."):
        data.load(tmp_path / "nowhere" / "x.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no file or directory \./x"):
        data.load("./x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a directory without a file that can be read"):
        data.load(tmp_path / "empty")
    with pytest.raises(UserError, match="name of the dataset is empty"):
        data.load("")


NOT_FOUND = SimpleNamespace(status_code=404, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RepositoryNotFoundError("404", response=NOT_FOUND), "nor a public dataset on the Hub"),
        (RevisionNotFoundError("404", response=NOT_FOUND), "has no revision `v9`"),
        (
            ConnectionError("no route"),
            "looks like a name on the Hub, but the Hub could not be reached (ConnectionError)",
        ),
    ],
)
def test_hub_name(error, words, monkeypatch, tmp_path):
    def dataset_info(*_, **__):
        raise error

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "somebody").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as said:
        data.load("somebodi/pairs", revision="v9")
    assert words in str(said.value)


def test_hub_name_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        data.load("somebody/pairs")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        data.splits("somebody/pairs")


def test_a_home_nobody_may_write_to(tmp_path, monkeypatch):
    home = tmp_path / "a file" / "huggingface"
    home.parent.touch()
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(home))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    Dataset.from_list(PLAIN).to_json(tmp_path / "p.jsonl")
    with pytest.raises(UserError, match=r"keep data in .*huggingface, which cannot be written to \(Not a directory\)"):
        data.load(tmp_path / "p.jsonl")
