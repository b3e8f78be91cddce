"""Gemma's `token_type_ids`, by which the tokens of an image attend to each other both ways, reach every forward pass."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tests.trainers.helpers import arguments, relative_difference
from tests.trainers.preference.images import COLOURS, image_pairs, labelled_images, train
from trl_ext.batching.images import unpacked
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

SPECIAL = ["<boi>", "<image>", "<eoi>"]
TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if m['content'] is string %}{{ m['content'] }} {% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<boi> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] != 'user' %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


@pytest.fixture(scope="module")
def tiny_gemma(tmp_path_factory) -> str:
    """A Gemma 3 with an image tower; each image becomes four tokens."""
    directory = str(tmp_path_factory.mktemp("tiny-gemma"))
    words = ["<pad>", "<unk>", "<s>", "</s>", *SPECIAL, "USER:", "ASSISTANT:", *COLOURS, "what", "colour", "is", "it"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"boi_token": "<boi>", "image_token": "<image>", "eoi_token": "<eoi>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", extra_special_tokens=names
    )
    size = {"height": 16, "width": 16}
    Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size=size),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=TEMPLATE,
    ).save_pretrained(directory)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0, "eos_token_id": 3, "sliding_window": 64,
    }  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
    )
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=4,
            image_token_index=5,
            boi_token_index=4,
            eoi_token_index=6,
        )
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=["pairs", "labelled"])
def both(request, tiny_gemma, tmp_path_factory):
    """TRL's trainer and ours after one step on the same images."""
    settings = {"max_steps": 1, "max_length": None, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    given = arguments(tmp_path_factory.mktemp("out"), **settings, train_sampling_strategy="sequential")
    if request.param == "pairs":
        trl = train(DPOTrainer, DPOConfig(**given), tiny_gemma, image_pairs(4))
        return trl, train(
            PairedPreferenceTrainer, PairedPreferenceConfig(**given, loss="dpo"), tiny_gemma, image_pairs(4)
        )
    trl = train(KTOTrainer, KTOConfig(**given, loss_type="kto"), tiny_gemma, labelled_images(4))
    return trl, train(UnpairedPreferenceTrainer, UnpairedPreferenceConfig(**given), tiny_gemma, labelled_images(4))


def test_images_train_as_in_trl(both):
    trl, mine = both
    assert relative_difference(mine.recorder.gradients[0], trl.recorder.gradients[0]) < 1e-5
    for name in (
        "loss",
        "rewards/chosen",
        "logps/rejected",
        "entropy",
        *(("kl",) if "kl" in trl.recorder.logs[0] else ()),
    ):
        expected = pytest.approx(trl.recorder.logs[0][name], rel=1e-5, abs=1e-5)
        assert mine.recorder.logs[0][name] == expected, name


def test_they_would_train_otherwise_without_token_types(both):
    """So that the test above cannot pass if both leave them out."""
    _, mine = both
    batch = unpacked(next(iter(mine.get_train_dataloader())))
    assert (batch["token_type_ids"] == 1).sum() == 4 * len(batch["input_ids"])  # four tokens of each image
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        with_types = mine.model(**inputs, token_type_ids=batch["token_type_ids"]).logits
        without = mine.model(**inputs).logits
    assert (with_types - without).abs().max() > 1e-4
