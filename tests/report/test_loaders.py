"""The classes that a model card names build the model that was trained: transformers is the judge."""

import pytest
import torch
import transformers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from trl_ext.report import loaders

TEXT = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
VISION = CLIPVisionConfig(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
)


@pytest.mark.parametrize(
    ("architecture", "config", "is_classifier", "processing"),
    [
        ("LlamaForCausalLM", TEXT, False, "AutoTokenizer"),
        ("LlavaForConditionalGeneration", LlavaConfig(vision_config=VISION, text_config=TEXT), False, "AutoProcessor"),
        ("LlamaForSequenceClassification", TEXT, True, "AutoTokenizer"),
    ],
)
def test_the_class_is_the_model_s_own(architecture, config, is_classifier, processing):
    found = loaders.of(architecture, is_classifier=is_classifier)
    with torch.device("meta"):
        built = getattr(transformers, found.model).from_config(config)
    assert type(built).__name__ == architecture and found.processing == processing
