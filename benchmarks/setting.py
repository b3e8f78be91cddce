"""Build the random models of the benchmarks and a tokenizer, and trainers in 4 bits on any model folder."""

from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 16384
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}" + (
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(folder: str, dataset: Dataset) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer on the dataset and write it."""
    texts = (turn["content"] for row in dataset for side in row.values() for turn in side)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(folder: str, dataset: Dataset, hidden: int, layers: int) -> None:
    """Write a random Llama, and the tokenizer of `make_tokenizer`."""
    write_llama(folder, len(make_tokenizer(folder, dataset)), hidden, layers)


def write_llama(folder: str, vocabulary: int, hidden: int, layers: int) -> None:
    """Write a random Llama whose tokens 0 and 1 are padding and end."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(hidden // 256, 1),
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def build(cls: type, config: Any, folder: str, dataset: Dataset, reward: Any = None) -> Any:
    """Build a trainer with NF4 and a rank-16 LoRA on all linear layers, in float32 on a CPU.

    Args:
        cls: The trainer.
        config: Its configuration.
        folder: Of a model with its tokenizer.
        dataset: Its training data.
        reward: The reward function of a trainer that samples completions.
    """
    on_gpu = torch.cuda.is_available()
    trainer = cls(
        model=folder,
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(folder, **({"padding_side": "left"} if reward else {})),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if on_gpu else torch.float32,
        ),
        **({"reward_funcs": reward} if reward else {}),
    )
    if not on_gpu:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # TRL casts them to bfloat16, which most CPUs emulate
    return trainer
