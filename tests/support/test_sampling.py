"""Samples are the model's own distribution, whatever its authors recommend to sample with."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_ext.demo import MODEL
from trl_ext.support.sampling import sample


@pytest.mark.parametrize(
    "recommended",
    [
        {"repetition_penalty": 5.0},
        {"min_p": 0.9},
        {"typical_p": 0.1},
        {"no_repeat_ngram_size": 1},
        {"top_k": 1, "top_p": 0.1},
    ],
)
def test_recommended_settings_are_not_followed(recommended):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    prompts = ["How was the hotel in Rome?"] * 4
    texts = []
    for settings in ({}, {"do_sample": True, **recommended}):
        model = AutoModelForCausalLM.from_pretrained(MODEL)
        model.generation_config.update(**settings)
        texts.append([completion.text for completion in sample(model, tokenizer, prompts, seed=3, max_new_tokens=30)])
    assert texts[0] == texts[1]
