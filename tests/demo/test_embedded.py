"""What ships in the package is what the build script says it is."""

import json
import statistics

import pytest
from transformers import AutoTokenizer
from trl.chat_template_utils import is_chat_template_prefix_preserving, is_chat_template_stop_token_trained

from trl_ext.demo import DATA, MODEL, grammar
from trl_ext.demo.build import N_TEST, N_TRAIN, PAIRS, load_in_4bit
from trl_ext.support.sampling import sample


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def pairs(split: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_4bit_model_writes_the_language_without_a_preference():
    # 200 samples: standard error 0.03 of the reward.
    model, tokenizer = load_in_4bit(MODEL)
    assert model.is_loaded_in_4bit
    prompts = grammar.prompts()[::7][:200]
    completions = sample(model, tokenizer, [prompt.text for prompt in prompts], seed=0, max_new_tokens=80)
    fluency = [grammar.fluency(c.text, prompt.thing) for c, prompt in zip(completions, prompts, strict=True)]
    assert statistics.fmean(fluency) >= 0.95
    assert statistics.fmean(grammar.reward(c.text) for c in completions) == pytest.approx(0.5, abs=0.1)
    assert all(c.is_ended for c in completions)
    assert len({c.text for c in completions}) == 200


def test_a_chosen_completion_earns_more_than_its_rejected_one():
    for pair in pairs("train") + pairs("test"):
        chosen, rejected = (grammar.reward(pair[side][0]["content"]) for side in ("chosen", "rejected"))
        assert chosen - rejected >= PAIRS["min_gap"]


def test_the_data_are_conversational_pairs():
    assert (len(pairs("train")), len(pairs("test"))) == (N_TRAIN, N_TEST)
    for pair in pairs("train") + pairs("test"):
        roles = {name: [message["role"] for message in messages] for name, messages in pair.items()}
        assert roles == {"prompt": ["user"], "chosen": ["assistant"], "rejected": ["assistant"]}


def test_no_prompt_is_in_both_splits_or_twice():
    train, test = ([pair["prompt"][0]["content"] for pair in pairs(split)] for split in ("train", "test"))
    assert len(set(train + test)) == len(train) + len(test)


def test_the_prompt_is_a_prefix_of_prompt_and_completion(tokenizer):
    for pair in pairs("test"):
        prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=False)
        for side in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(pair["prompt"] + pair[side], return_dict=False)
            assert whole[: len(prompt)] == prompt
            assert tokenizer.decode(whole[len(prompt) :]) == pair[side][0]["content"] + tokenizer.eos_token


def test_the_template_passes_the_checks_of_trl(tokenizer):
    assert is_chat_template_prefix_preserving(tokenizer)
    assert is_chat_template_stop_token_trained(tokenizer)


def test_the_template_renders_a_system_message(tokenizer):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|system|>Be kind.<|end|><|user|>Hello<|end|><|assistant|>"


def test_words_of_the_language_are_single_tokens_and_anything_else_survives(tokenizer):
    sentiment = [*grammar.POSITIVE_ADJECTIVES, *grammar.NEGATIVE_ADJECTIVES]
    sentiment += [*grammar.POSITIVE_VERBS, *grammar.NEGATIVE_VERBS]
    assert all(len(tokenizer(f" {word}")["input_ids"]) == 1 for word in sentiment)
    text = "Überraschung: 100 % naïve 東京\n\n\t  <tag> 🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_package_stays_small():
    files = [file for folder in (MODEL, DATA) for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 6e6
