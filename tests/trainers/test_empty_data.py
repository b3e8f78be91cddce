"""Data without a row is refused by every trainer, before weights are loaded."""

import pytest
from datasets import Dataset, IterableDataset

from tests.conftest import pairs
from trl_ext import trainers
from trl_ext.trainers.common import empty_data

NO_ROWS = Dataset.from_list([])
SAMPLED = {"reward_funcs": lambda completions, **_: [0.0] * len(completions)}
KINDS = {
    "PairedPreference": {},
    "UnpairedPreference": {},
    "Supervised": {},
    "RewardModel": {},
    "PPO": SAMPLED,
    "RLOO": SAMPLED,
    "GRPO": SAMPLED,
    "OnlinePreference": SAMPLED,
}


def test_every_trainer_is_tested():
    assert {f"{name}Trainer" for name in KINDS} == {name for name in trainers.__all__ if name.endswith("Trainer")}


@pytest.mark.parametrize("name", KINDS)
def test_no_trainer_takes_data_without_rows(name, tmp_path):
    from peft import LoraConfig

    args = getattr(trainers, f"{name}Config")(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False)
    make = getattr(trainers, f"{name}Trainer")
    given = {"model": str(tmp_path / "none"), "args": args, "peft_config": LoraConfig(), **KINDS[name]}
    with pytest.raises(ValueError, match=r"^`train_dataset` has no rows\. Give a dataset with rows\."):
        make(train_dataset=NO_ROWS, **given)
    with pytest.raises(ValueError, match=r"^`eval_dataset\['b'\]` has no rows\. .* or leave it out\."):
        make(train_dataset=Dataset.from_list(pairs(64)), eval_dataset={"b": NO_ROWS}, **given)


def test_a_stream_is_read_from_its_beginning_afterwards():
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "a"}, {"prompt": "b"}]))
    empty_data.refuse(train_dataset=stream, eval_dataset=None)
    assert [row["prompt"] for row in stream] == ["a", "b"]
    with pytest.raises(ValueError, match="has no rows"):
        empty_data.refuse(train_dataset=stream.filter(lambda row: False))
