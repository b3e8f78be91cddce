"""Runs without a step and evaluations without a batch are refused before weights are loaded, whatever is trained."""

import itertools
import json

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from trl_ext import recipe
from trl_ext.build import trainer as building
from trl_ext.build.duration import batches_per_epoch, count_steps
from trl_ext.methods import METHODS
from trl_ext.support.errors import UserError

KINDS = {
    "paired": "loss: dpo\n",
    "unpaired": "loss: kto\n",
    "sft": "trainer: sft\n",
    "reward": "trainer: reward\n",
    "ppo": "trainer: ppo\nreward_funcs: [sentiment]\n",
    "online": "trainer: online\nloss: dpo\nreward_funcs: [sentiment]\nnum_generations: 2\n",
}


class WeightsLoadedError(BaseException):
    pass


@pytest.fixture
def built(monkeypatch, tmp_path):
    """Builds a recipe on rows up to the loading of weights; returns the statements."""

    def load(recipe, args, chosen, statements, base):
        raise WeightsLoadedError(*statements)

    monkeypatch.setattr(building, "load_policy", load)

    def build(text, rows=3, evaluation=None, repeated=1):
        pair = {"prompt": "The film was", "chosen": " good.", "rejected": " bad."}
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for name, number, times in (("train", rows, 1), ("test", evaluation, repeated)):
            if number is not None:
                lines = [json.dumps(pair | {"prompt": f"The film {i} was" * times}) + "\n" for i in range(number)]
                (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        path = tmp_path / "r.yaml"
        path.write_text(
            f"model_name_or_path: embedded\ndataset_name: {folder}\nuse_peft: true\nuse_cpu: true\n{text}", "utf-8"
        )
        with pytest.raises((UserError, WeightsLoadedError)) as caught:
            building.build_trainer(recipe.load(path), tmp_path / "run")
        return caught.value

    return build


@pytest.mark.parametrize(("accumulated", "drops"), list(itertools.product([1, 3], [True, False])))
@pytest.mark.parametrize(
    ("rows", "size", "epochs", "steps"), [(10, 4, 1.0, -1), (10, 3, 2.5, -1), (7, 8, 3.0, -1), (9, 2, 1.0, 5)]
)
def test_steps_are_those_of_transformers(rows, size, epochs, steps, accumulated, drops, tmp_path):
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulated,
        num_train_epochs=epochs,
        max_steps=steps,
        dataloader_drop_last=drops,
        use_cpu=True,
        remove_unused_columns=False,
        report_to="none",
    )
    data = Dataset.from_list([{"x": [0.0]}] * rows)
    loader = Trainer(torch.nn.Linear(1, 1), args, train_dataset=data).get_train_dataloader()
    assert batches_per_epoch(args, rows, size) == len(loader)
    if len(loader):
        expected = Trainer(torch.nn.Linear(1, 1), args).set_initial_training_values(args, loader)[-1]
        assert count_steps(METHODS["sft"], args, data, None) == expected
    else:
        with pytest.raises(UserError, match="no step would be taken"):
            count_steps(METHODS["sft"], args, data, None)


@pytest.mark.parametrize("kind", ["paired", "sft", "reward"])
def test_fewer_rows_than_a_batch(kind, built):
    said = str(built(f"{KINDS[kind]}dataloader_drop_last: true\nper_device_train_batch_size: 4\n"))
    assert said == (
        "The training data has 3 rows, and a batch has 4 (`per_device_train_batch_size`). `dataloader_drop_last` drops batches "
        "that are not full, so no step would be taken. Remove `dataloader_drop_last`, or lower `per_device_train_batch_size`."
    )


def test_pairs_are_two_labelled_completions(built):
    text = f"{KINDS['unpaired']}dataloader_drop_last: true\nper_device_train_batch_size: "
    assert "has 6 rows, and a batch has 7" in str(built(f"{text}7\n"))


@pytest.mark.parametrize("kind", KINDS)
def test_enough_rows_for_one_batch(kind, built):
    rows = 3 if kind != "unpaired" else 2
    sampled = "max_completion_length: 8\n" if kind in ("ppo", "online") else ""
    size = {"online": 6, "unpaired": 4}.get(kind, 3)
    text = f"{KINDS[kind]}{sampled}dataloader_drop_last: true\nper_device_train_batch_size: {size}\n"
    assert isinstance(built(f"{text}gradient_accumulation_steps: 1\n", rows), WeightsLoadedError)


@pytest.mark.parametrize("kind", ["ppo", "online"])
def test_fewer_prompts_than_a_rollout(kind, built):
    size = {"ppo": 4, "online": 8}[kind]
    text = f"{KINDS[kind]}per_device_train_batch_size: {size}\ngradient_accumulation_steps: 1\n"
    assert "has 3 prompts, but a rollout needs 4" in str(built(text))


def test_packed_rows_are_counted(built):
    """Ten short completions fit into one packed row."""
    text = (
        f"{KINDS['sft']}packing: true\nmax_length: 512\ndataloader_drop_last: true\nper_device_train_batch_size: 2\n"
    )
    assert "has 1 row, and a batch has 2" in str(built(text, rows=10))


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_set_smaller_than_its_batch(kind, built):
    size = {"ppo": 3, "online": 6}.get(kind, 8)
    text = (
        f"{KINDS[kind]}eval_strategy: steps\ndataloader_drop_last: true\nper_device_train_batch_size: 2\n"
        f"gradient_accumulation_steps: 1\nper_device_eval_batch_size: {size}\n"
    )
    said = str(built(text, rows=8, evaluation=2))
    assert f"and a batch has {size} (`per_device_eval_batch_size`)" in said and "so nothing would be evaluated" in said


@pytest.mark.parametrize("kind", ["paired", "unpaired", "sft", "reward"])
def test_evaluation_rows_that_are_all_too_long(kind, built):
    text = f"{KINDS[kind]}eval_strategy: epoch\nmax_length: 64\nper_device_train_batch_size: 2\n"
    said = str(built(text, rows=8, evaluation=3, repeated=50))
    assert said.startswith("Every row of the evaluation data would be dropped") and "Raise `max_length`" in said


def test_an_evaluation_at_the_start_reads_its_rows(built):
    text = f"{KINDS['reward']}eval_on_start: true\nmax_length: 64\nper_device_train_batch_size: 2\n"
    assert "Every row of the evaluation data" in str(built(text, rows=8, evaluation=3, repeated=50))


def test_streams(built):
    """Their first rows are read; without a row, or a rollout of prompts, nothing would be trained."""
    stream = "dataset_streaming: true\nmax_steps: 2\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 1\n"
    assert isinstance(built(f"{KINDS['paired']}{stream}"), WeightsLoadedError)
    assert "The stream of training data has 3 prompts, but a rollout needs 4" in str(built(f"{KINDS['ppo']}{stream}"))
    long = f"{KINDS['paired']}{stream}max_length: 64\neval_strategy: epoch\ndataset_test_split: train\n"
    assert "Every training example was dropped" in str(built(long.replace("max_length: 64", "max_length: 2")))
