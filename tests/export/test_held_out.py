"""Token sequences against those TRL's own trainer makes of the same rows."""

import copy

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tests.conftest import pairs
from tests.trainers.helpers import arguments
from trl_ext import demo
from trl_ext.export.held_out import completions_of
from trl_ext.methods import METHODS

CHAT = [
    {
        "prompt": [{"role": "user", "content": "Write a review of the hotel."}],
        "chosen": [{"role": "assistant", "content": "The hotel was lovely."}],
        "rejected": [{"role": "assistant", "content": "It was bad."}],
    }
]


@pytest.mark.parametrize("model, rows", [("tiny", pairs(5)), ("embedded", CHAT)])
def test_pairs_are_tokenised_as_trl_does(model, rows, tiny_model, tmp_path):
    path = tiny_model if model == "tiny" else str(demo.MODEL)
    tokenizer = AutoTokenizer.from_pretrained(path)
    config = DPOConfig(**arguments(tmp_path, max_length=None))
    trained = DPOTrainer(path, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    for row, expected in zip(rows, trained.train_dataset, strict=True):
        given, args = Dataset.from_list([row]), copy.copy(config)
        chosen, rejected = completions_of(METHODS["paired"], given, tokenizer, args)
        assert chosen.prompt_ids == rejected.prompt_ids == expected["prompt_ids"]
        assert (chosen.ids, rejected.ids) == (expected["chosen_ids"], expected["rejected_ids"])
        args.max_length = len(chosen.prompt_ids) + 2
        cut = completions_of(METHODS["paired"], given, tokenizer, args)
        assert [c.ids for c in cut] == [chosen.ids[:2], rejected.ids[:2]]
        args.max_length = 1
        assert completions_of(METHODS["paired"], given, tokenizer, args) == []  # no room for an answer


@pytest.mark.parametrize(
    "row, completion",
    [
        ({"text": "the word of the other"}, "word of the other"),
        ({"prompt": "the word", "completion": " of the other"}, "of the other"),
        ({"messages": CHAT[0]["prompt"] + CHAT[0]["chosen"]}, "The hotel was lovely."),
        (
            {"conversations": [{"from": "user", "value": "Hi."}, {"from": "assistant", "value": "Good day."}]},
            "Good day.",
        ),
    ],
)
def test_demonstrations_are_tokenised_as_trl_does(row, completion, tiny_model, tmp_path):
    path = str(demo.MODEL) if {"messages", "conversations"} & set(row) else tiny_model
    tokenizer = AutoTokenizer.from_pretrained(path)
    config = SFTConfig(**arguments(tmp_path, max_length=64))
    trained = SFTTrainer(path, args=config, train_dataset=Dataset.from_list([row]), processing_class=tokenizer)
    for learned in (None, False):
        config.completion_only_loss = learned
        [found] = completions_of(METHODS["sft"], Dataset.from_list([row]), tokenizer, config)
        assert found.prompt_ids + found.ids == trained.train_dataset[0]["input_ids"]
        assert tokenizer.decode(found.ids).lstrip().startswith(completion)
