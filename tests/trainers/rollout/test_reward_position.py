"""A reward adapter is read at the token its classifier was trained at, whatever the tokenizer's padding and template."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.trainers.helpers import lora, randomise_lora_b
from tests.trainers.rollout.helpers import random_head, rows_of
from trl_ext import PPOConfig, PPOTrainer, demo
from trl_ext.batching import attention
from trl_ext.trainers.rollout.reward_adapter import RewardAdapter

QUESTION = [{"role": "user", "content": "Write about the room."}]
ANSWERS = ["I loved the room.", "I hated the bed.", "The staff was great."]


def base_with(tokenizer_kind: str, folder) -> str:
    """The embedded model with a tokenizer of a kind people use."""
    shutil.copytree(demo.MODEL, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer_kind == "pads with the end of sequence":
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer_kind == "writes on after the end of sequence":
        tokenizer.chat_template = tokenizer.chat_template.replace("+ eos_token", "+ eos_token + ' the'")
    tokenizer.save_pretrained(folder)
    return str(folder)


def train_nothing_but_save(base: str, folder) -> torch.nn.Module:
    """A classifier with a random adapter and head, saved as TRL's RewardTrainer saves one."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    classifier.config.pad_token_id = tokenizer.pad_token_id
    config = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    model = get_peft_model(classifier, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=1.0 if "score" in name else 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["plain", "pads with the end of sequence", "writes on after the end of sequence"])
@torch.no_grad()
def test_scores_are_those_of_the_classifier_on_the_rendered_conversation(kind, tmp_path):
    base = base_with(kind, tmp_path / "base")
    classifier = train_nothing_but_save(base, tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.enable_grad():
        trainer = PPOTrainer(
            model=base,
            reward_funcs=None,
            args=PPOConfig(
                output_dir=str(tmp_path / "ppo"),
                reward_adapter=str(tmp_path / "reward"),
                per_device_train_batch_size=2,
                report_to="none",
                use_cpu=True,
                bf16=False,
            ),
            train_dataset=Dataset.from_list([{"prompt": QUESTION}] * 4),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=4, target_modules="all-linear"),
        )
    rendered = [
        tokenizer.apply_chat_template(
            [*QUESTION, {"role": "assistant", "content": answer}], tokenize=True, return_dict=False
        )
        for answer in ANSWERS
    ]
    expected = [classifier(input_ids=torch.tensor([ids])).logits.item() for ids in rendered]
    sampled = [[*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for answer in ANSWERS]
    assert trainer.reward_funcs[-1]([QUESTION] * 3, sampled) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_reward_adapter_scores_packed_completions_as_padded_ones(model, tmp_path, monkeypatch):
    """Also where padding cuts into the prompt, and where nothing of a completion is read."""
    rows = rows_of()
    rows.runtime.model.add_adapter("reward", lora(inference_mode=True))
    rows.runtime.model.add_module("reward_head", random_head())
    randomise_lora_b(rows.runtime.model)
    adapter = object.__new__(RewardAdapter)
    adapter._model, adapter._pad_token_id = rows.runtime.model, 0
    adapter._tokenizer, adapter._after_eos = SimpleNamespace(eos_token_id=2, pad_token_id=0), []
    prompts = [[5, 6, 7], [5, 6, 7], [5, 6, 7], [8, 0, 0], [9]]
    adapter._tokenize = lambda _: prompts
    completions = [[11, 12], [13, 2], [0], [0, 0], [14]]
    adapter._values = adapter._values_padded
    padded = adapter([""] * 5, completions)
    rows.is_packed = True
    attention.switch(rows.runtime.base)
    adapter._values = lambda trees, width: rows.scalars(trees, width, rows.runtime.model.reward_head)
    assert adapter([""] * 5, completions) == pytest.approx(padded, rel=1e-4, abs=1e-5)
    for read, score in zip(([5, 6, 7, 11, 12], [5, 6, 7, 13, 2], [5, 6, 7], [8], [9, 14]), padded, strict=True):
        rows.runtime.model.set_adapter("reward")
        with torch.no_grad():
            states = rows.runtime.model(input_ids=torch.tensor([read]), output_hidden_states=True).hidden_states[-1]
        assert score == pytest.approx(rows.runtime.model.reward_head(states[0, -1]).item(), rel=1e-4, abs=1e-5)
