"""A tiny vision-language model, preference data with images, and how a trainer is run on them."""

import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from trl.data_utils import unpair_preference_dataset

from tests.trainers.helpers import Recorder, lora, randomise_lora_b

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if m['content'] is string %}{{ m['content'] }} {% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] != 'user' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def save_tiny_vlm(directory: str) -> None:
    """A two-layer Llava with a word tokenizer, and its processor."""
    words = [
        "<pad>",
        "<unk>",
        "<s>",
        "</s>",
        "<image>",
        "USER:",
        "ASSISTANT:",
        *COLOURS,
        "what",
        "colour",
        "is",
        "it",
    ]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                pad_token_id=0,
                eos_token_id=3,
            ),
            image_token_index=4,
            vision_feature_select_strategy="default",
        )
    )
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


def image_pairs(count: int) -> Dataset:
    names = list(COLOURS)
    rows = [
        {
            "images": [Image.new("RGB", (16, 16), COLOURS[names[i % 3]])],
            "prompt": [{"role": "user", "content": "what colour is it"}],
            "chosen": [{"role": "assistant", "content": names[i % 3]}],
            "rejected": [{"role": "assistant", "content": names[(i + 1 + i % 2) % 3] + " is it" * (i % 2)}],
        }
        for i in range(count)
    ]
    return Dataset.from_list(rows)


def labelled_images(count: int) -> Dataset:
    """Labelled completions, desirable and undesirable ones by turns."""
    rows = unpair_preference_dataset(image_pairs(count // 2))
    return rows.select([i // 2 + i % 2 * (count // 2) for i in range(count)])


def train(cls, config, model, dataset=None):
    trainer = cls(
        model=model,
        args=config,
        train_dataset=dataset or image_pairs(16),
        processing_class=AutoProcessor.from_pretrained(model),
        peft_config=lora(target_modules=r".*language_model.*\.(q_proj|v_proj)"),
    )
    randomise_lora_b(trainer.model)
    trainer.recorder = Recorder()
    trainer.add_callback(trainer.recorder)
    trainer.train()
    return trainer
