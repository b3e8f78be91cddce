"""What the files of a dataset tell about evaluation, and streams."""

import shutil

import pytest

from tests.recipe.helpers import load, load_from, problem, problems
from trl_ext import demo

MODEL = "model_name_or_path: embedded\n"


@pytest.fixture
def file(tmp_path):
    return shutil.copy(demo.DATA / "train.jsonl", tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("more", ["", "trainer: sft\n", "dataset_test_split: 'validation[:10%]'\n"])
def test_one_file_has_no_split_to_evaluate_on(more, file, tmp_path):
    said = problem(tmp_path, f"eval_strategy: epoch\n{more}", f"{MODEL}dataset_name: {file}\n")
    wanted = "validation[:10%]" if "validation" in more else "test"
    assert said.startswith(f"`eval_strategy` (line 3) is epoch, which evaluates on the split `{wanted}`, and ")
    assert "has the split `train` only. Set `eval_size`" in said


def test_nothing_is_held_out_of_a_stream(file, tmp_path):
    text = "eval_strategy: steps\ndataset_streaming: true\nmax_steps: 5\n"
    said = problem(tmp_path, text, f"{MODEL}dataset_name: {file}\n")
    assert "Rows cannot be held out of a stream" in said and "eval_size" not in said


@pytest.mark.parametrize("more", ["eval_size: 5\n", "dataset_test_split: 'train[:10%]'\n", "eval_strategy: 'no'\n"])
def test_what_one_file_can_be_evaluated_on(more, file, tmp_path):
    strategy = "" if "eval_strategy" in more else "eval_strategy: steps\n"
    load_from(tmp_path, f"{MODEL}dataset_name: {file}\n{strategy}{more}")


def test_splits_that_were_saved(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    base = f"{MODEL}dataset_name: {folder}\n"
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert f"the split `test`, and {folder} has the splits train, validation." in problem(
        tmp_path, "eval_strategy: steps\n", base
    )
    load_from(tmp_path, f"{base}eval_strategy: steps\ndataset_test_split: validation\n")


def test_a_stream_has_no_number_of_rows(tmp_path):
    assert "for instance `max_steps: 1000`" in problem(tmp_path, "dataset_streaming: true\n")
    size, steps = problems(tmp_path, "dataset_streaming: true\neval_size: 5\neval_strategy: steps\n")
    assert size.startswith("`dataset_streaming` (line 3) is true") and steps.startswith(
        "`eval_size` (line 4) holds rows out"
    )
    load(tmp_path, "dataset_streaming: true\nmax_steps: 5\neval_strategy: steps\n")
