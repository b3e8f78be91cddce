"""The parts the embedded model and data are built with."""

import torch
from transformers import AutoTokenizer

from trl_ext.demo import MODEL, grammar
from trl_ext.demo.build import SEED, load_in_4bit, new_tokenizer
from trl_ext.demo.pairs import sample_pairs
from trl_ext.demo.pretrain import new_model, pretrain
from trl_ext.support.sampling import sample


def test_the_shipped_tokenizer_is_the_one_the_grammar_gives():
    # Fails where the grammar was changed and the model was not rebuilt.
    shipped, rebuilt = AutoTokenizer.from_pretrained(MODEL), new_tokenizer()
    assert shipped.get_vocab() == rebuilt.get_vocab()
    assert shipped.chat_template == rebuilt.chat_template


def test_pretraining_learns_and_repeats():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    weights, losses = [], []
    for _ in range(2):
        torch.manual_seed(0)
        model = new_model(tokenizer, hidden_size=64, n_layers=1)
        losses.append(
            pretrain(
                model,
                tokenizer,
                grammar.prompts(),
                steps=60,
                batch_size=8,
                learning_rate=1e-2,
                seed=SEED,
                log=lambda line: None,
            )
        )
        weights.append(model.lm_head.weight)
    assert losses[0] == losses[1] and torch.equal(*weights)
    # A uniform guess over the vocabulary costs ln 960 = 6.9 nats, one over the words of the language about 5.
    assert losses[0] < 4


def test_pairs_are_the_best_and_worst_of_the_samples():
    model, tokenizer = load_in_4bit(MODEL)
    prompts = grammar.prompts()[::61]
    pairs = sample_pairs(model, tokenizer, prompts, n_answers=3, min_gap=0.6, seed=5, max_new_tokens=80)
    texts = [prompt.text for prompt in prompts]
    rounds = [sample(model, tokenizer, texts, seed=seed, max_new_tokens=80) for seed in (5, 6, 7)]
    expected = {}
    for prompt, answers in zip(texts, zip(*rounds, strict=True), strict=True):
        rewards = [grammar.reward(answer.text) for answer in answers]
        if max(rewards) - min(rewards) >= 0.6:
            expected[prompt] = [max(rewards), min(rewards)]
    found = {
        pair["prompt"][0]["content"]: [grammar.reward(pair[side][0]["content"]) for side in ("chosen", "rejected")]
        for pair in pairs
    }
    assert found == expected and 0 < len(found) < len(prompts)
