"""Arguments of a trainer that cannot be trained with FSDP are refused before anything is loaded."""

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import BitsAndBytesConfig

from tests.conftest import pairs
from tests.trainers.helpers import lora
from trl_ext.trainers.preference import sharded


def refusal(has_images: bool = False, **given) -> str:
    try:
        sharded.refuse("org/model", {"peft_config": lora(), **given}, has_images=has_images)
    except ValueError as error:
        return str(error)
    return ""


def test_a_plain_lora_is_trained():
    assert refusal(train_dataset=Dataset.from_list(pairs(2))) == ""


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float32])
def test_a_4_bit_base_stored_as_numbers_is_sharded(storage):
    assert refusal(quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_storage=storage)) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"peft_config": None}, "Give `peft_config`, and no `ref_model`."),
        ({"ref_model": "org/other"}, "Give `peft_config`, and no `ref_model`."),
        ({"has_images": True}, "FSDP is not supported for data with images."),
        ({"peft_config": lora(modules_to_save=["embed_tokens"])}, "The adapter has the setting `modules_to_save`."),
        ({"peft_config": lora(use_dora=True)}, "The adapter has the setting `use_dora`."),
        ({"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}, "`bnb_4bit_quant_storage`"),
        ({"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}, "no other quantised weights"),
        ({"train_dataset": Dataset.from_list(pairs(2)).to_iterable_dataset()}, "Load the data without streaming."),
        ({"eval_dataset": {"a": IterableDataset.from_generator(lambda: iter(pairs(2)))}}, "without streaming"),
    ],
)
def test_what_cannot_be_sharded_is_refused(given, said):
    assert said in refusal(**given)


def test_another_adapter_is_refused():
    from peft import IA3Config

    config = IA3Config(target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    assert "PEFT's type IA3" in refusal(peft_config=config)
