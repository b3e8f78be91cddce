"""The rules about a mixture of datasets."""

import pytest

from tests.recipe.helpers import load, load_from, problem
from trl_ext.data.mixture import open_mixture
from trl_ext.support.errors import UserError

BASE = "model_name_or_path: embedded\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("datasets: [{path: a/b, share: 1.5}]\n", "`share` is 1.5. Give a number above 0 and at most 1."),
        ("datasets: [{path: a/b, share: 0.5, fraction: 0.5}]\n", "`fraction` its share of the mixture. Keep one of them."),
        ("datasets: [{path: a/b, share: half}]\n", "`share` is 'half': give a number"),
        ("datasets: [{path: a/b, share: 0.5}]\nstreaming: true\nmax_steps: 1\n", "`share` in `datasets` (line 2) needs the number of rows"),
        ("datasets: [{path: a/b}]\ntest_split_size: 9\nstreaming: true\nmax_steps: 1\n", "`test_split_size` (line 3) needs the number"),
        ("datasets: [{path: a/b}]\ndataset_train_split: train_sft\n", "Remove it, and give each entry of `datasets` its `split`."),
        ("datasets: [{path: ~nobody-here/x.jsonl}]\n", "Entry 1 of `datasets` (line 2): `path` is ~nobody-here/x.jsonl, and this computer"),
        ("datasets: [{path: a/b}]\neval_strategy: steps\n", "and the mixture `datasets` has only the split `train`."),
        (
            "datasets: [{path: a/b}]\ntest_split_size: 10\ndataset_test_split: x\neval_on_start: true\n",
            "evaluates on the split `x`, and the mixture `datasets` has the splits `train` and `test`.",
        ),
    ],
)  # fmt: skip
def test_what_a_mixture_refuses(tmp_path, text, words):
    assert words in problem(tmp_path, text, BASE)


@pytest.mark.parametrize(
    "text",
    [
        "datasets: [{path: a/b, share: 0.5}, {path: c/d}]\n",
        "datasets: [{path: a/b}]\neval_strategy: steps\ntest_split_size: 0.1\n",
        "datasets: [{path: a/b}]\neval_strategy: steps\neval_size: 10\n",
        "datasets: [{path: a/b}]\neval_strategy: steps\ndataset_test_split: 'train[:5%]'\n",
    ],
)
def test_what_a_mixture_allows(tmp_path, text):
    assert load_from(tmp_path, BASE + text).notes == []


def test_a_test_split_of_a_single_dataset_is_noted(tmp_path):
    (note,) = load(tmp_path, "test_split_size: 0.1\n").notes
    assert "has no effect without `datasets`: use `eval_size`" in note


TEXT = '{"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}\n'
TURNS = '{"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": null, "score": 0.5}\n'


def test_files_whose_columns_have_other_types(tmp_path, monkeypatch):
    """`datasets` refuses to put them one after the other."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jsonl").write_text(TEXT, encoding="utf-8")
    (tmp_path / "turns.jsonl").write_text(TURNS, encoding="utf-8")
    said = problem(tmp_path, "datasets: [{path: text.jsonl}, {path: turns.jsonl}]\n", BASE)
    assert "the column `prompt` holds text in entry 1 and lists of mappings in entry 2." in said
    assert "`chosen`" not in said and "`score`" not in said
    with pytest.raises(UserError, match="cannot be loaded"):
        open_mixture([{"path": "text.jsonl"}, {"path": "turns.jsonl"}])


@pytest.mark.parametrize(
    "text",
    [
        "datasets: [{path: text.jsonl}, {path: text.jsonl, share: 0.5}]\n",
        "datasets: [{path: text.jsonl, columns: [chosen, rejected]}, {path: turns.jsonl, columns: [chosen, rejected]}]\n",
    ],
)
def test_files_whose_columns_have_the_same_types(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jsonl").write_text(TEXT, encoding="utf-8")
    (tmp_path / "turns.jsonl").write_text(TURNS, encoding="utf-8")
    load_from(tmp_path, BASE + text)


def test_a_broken_file_of_a_mixture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"\n', encoding="utf-8")
    assert "Entry 1 of `datasets` (line 2): broken.jsonl cannot be read: " in problem(
        tmp_path, "datasets: [{path: broken.jsonl}]\n", BASE
    )


FORMS = {
    "pairs.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}\n',
    "more.jsonl": '{"prompt": "a", "chosen": "b", "rejected": "c"}\n',
    "labels.jsonl": '{"prompt": "a", "completion": "b", "label": true}\n{"prompt": "a", "completion": "c", "label": false}\n',
    "compared.jsonl": '{"question": "a", "response_0": "b", "response_1": "c", "better_response_id": 0}\n',
    "text.jsonl": '{"text": "a"}\n',
}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("pairs", "more"), None),
        (
            ("pairs", "compared"),
            "entry 1 has pairs (TRL's own columns), and entry 2 has pairs (response_0 and response_1,",
        ),
        (
            ("more", "labels"),
            "entry 1 has pairs (TRL's own columns), and entry 2 has labelled completions (TRL's own columns)",
        ),
        (
            ("pairs", "text"),
            "Entry 2 of `datasets` (line 2): text.jsonl has the columns text, which are not recognised",
        ),
    ],
)
def test_the_rows_of_all_files_have_one_format(names, said, tmp_path, monkeypatch):
    """Rows in another format than the first rows would be dropped."""
    monkeypatch.chdir(tmp_path)
    for name, text in FORMS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    text = f"datasets: [{', '.join(f'{{path: {name}.jsonl}}' for name in names)}]\n"
    if said is None:
        load_from(tmp_path, BASE + text)
    else:
        assert said in problem(tmp_path, text, BASE)
