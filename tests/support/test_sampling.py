"""Samples are the model's own distribution, whatever its authors recommend to sample with."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trl_ext.demo import MODEL
from trl_ext.support.errors import UserError
from trl_ext.support.gumbel import GumbelNoise
from trl_ext.support.sampling import sample, sample_each


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


@pytest.fixture(scope="module")
def embedded():
    """In float32, in which shapes of batches change no token."""
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), AutoTokenizer.from_pretrained(MODEL)


PROMPTS = [f"How was the {thing}?" for thing in ("hotel in Rome", "bed", "staff", "room", "old bar by the sea")]


def texts(embedded, prompts=PROMPTS, **settings):
    return [each.text for each in sample(*embedded, prompts, **{"seed": 3, "max_new_tokens": 30, **settings})]


def test_a_completion_depends_on_its_prompt_only(embedded):
    expected = texts(embedded)
    assert len(set(expected)) == len(PROMPTS)
    for batch_size in (1, 2, 3):
        assert texts(embedded, batch_size=batch_size) == expected
    assert texts(embedded, PROMPTS[::-1]) == expected[::-1]
    assert texts(embedded, PROMPTS[3:]) == expected[3:]
    assert texts(embedded, seed=4) != expected


def test_a_repeated_prompt_gets_another_completion_and_the_same_ones_again(embedded):
    one, other = PROMPTS[:2]
    first, second, third = texts(embedded, [one] * 3)
    assert len({first, second, third}) == 3
    found = texts(embedded, [one, other, one, one], batch_size=3)
    assert [found[0], *found[2:]] == [first, second, third]


def test_the_global_random_state_is_neither_read_nor_changed(embedded):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    expected = texts(embedded)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert texts(embedded) == expected


def test_sampled_sequences_have_the_models_probabilities():
    """Two tokens of 8,000 completions of one prompt against the product of softmax(logits / T), by χ²."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=6, **sizes, eos_token_id=None, pad_token_id=0)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=None, decode=lambda ids, **kwargs: "")
    for temperature in (1.0, 0.6):
        settings = {"seed": 0, "max_new_tokens": 2, "batch_size": 2000, "temperature": temperature}
        found = Counter(tuple(each.ids) for each in sample(model, tokenizer, [[1, 2]] * 8000, **settings))
        rows = torch.tensor([[1, 2, token] for token in range(6)])
        with torch.no_grad():
            logits = model(input_ids=rows).logits.double() / temperature
        joint = logits[0, 1].softmax(-1).unsqueeze(1) * logits[:, 2].softmax(-1)  # (6, 6), sums to 1
        assert joint.max() > 10 * joint.min()
        chi_squared = sum(
            (found[i, j] - 8000 * joint[i, j].item()) ** 2 / (8000 * joint[i, j].item())
            for i in range(6)
            for j in range(6)
        )
        assert chi_squared < 73  # 35 degrees of freedom: exceeded by chance once in 6,000 seeds


def test_rare_tokens_are_as_rare_as_they_should_be():
    """The noise of one row and step against its distribution exp(−exp(−g)), at thresholds of many orders of magnitude."""
    size = 4_000_000
    noise = GumbelNoise([5], 1.0, torch.device("cpu"))(None, torch.zeros(1, size))[0]
    assert noise.isfinite().all()
    for threshold in (-2.0, 0.0, 2.0, 5.0, 9.0, 12.0):
        p = -math.expm1(-math.exp(-threshold))
        found = (noise > threshold).double().mean().item()
        assert found == pytest.approx(p, abs=5 * (p * (1 - p) / size) ** 0.5)
    assert len(noise.unique()) > 0.999 * size  # float32 has 2²⁴ uniform numbers, and would repeat a tenth of them


def test_each_step_has_noise_of_its_own():
    noise = GumbelNoise([5, 6], 1.0, torch.device("cpu"))
    first, second = (noise(None, torch.zeros(2, 10_000)).clone() for _ in range(2))
    assert torch.corrcoef(torch.cat([first, second])).fill_diagonal_(0).abs().max() < 0.05


def test_temperature_0_is_greedy(embedded):
    model, tokenizer = embedded
    [completion] = sample(model, tokenizer, PROMPTS[:1], seed=0, max_new_tokens=5, temperature=0)
    ids = list(completion.prompt_ids)
    with torch.no_grad():
        for token in completion.ids:
            assert model(input_ids=torch.tensor([ids])).logits[0, -1].argmax() == token
            ids.append(token)


def test_an_interrupted_caller_keeps_the_batches_before(embedded, monkeypatch):
    model, tokenizer = embedded
    expected, calls = texts(embedded), []

    def generate(**kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return type(model).generate(model, **kwargs)

    monkeypatch.setattr(model, "generate", generate)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        for completion in sample_each(model, tokenizer, PROMPTS, seed=3, max_new_tokens=30, batch_size=2):
            kept.append(completion.text)
    assert kept == expected[:4]


def test_running_out_of_memory_changes_no_completion(embedded, monkeypatch):
    model, _ = embedded
    expected, sizes = texts(embedded), []

    def generate(**kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")
        return type(model).generate(model, **kwargs)

    monkeypatch.setattr(model, "generate", generate)
    assert texts(embedded) == expected
    assert sizes == [5, 5, 2, 2, 1]  # once more as it was, then in halves


def test_logits_that_are_not_finite_are_refused(embedded, monkeypatch):
    model, _ = embedded
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: hidden.new_full((*hidden.shape[:2], 960), math.nan))
    with pytest.raises(UserError, match="NaN or infinite"):
        texts(embedded)
