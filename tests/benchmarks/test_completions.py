"""The evaluation measures what it says: against plain forwards, one at a time, and in known limits."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.completions import evaluate, held_out_prompts
from trl_ext.demo import MODEL, grammar
from trl_ext.support.sampling import Completion, logps, sample


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture
def policy():
    """The embedded model in float32 with a fresh adapter: B is zero, so policy and reference are the same."""
    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


def move(policy, scale: float) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=scale)


def plain_logp(model, completion: Completion) -> float:
    ids = torch.tensor([completion.prompt_ids + completion.ids])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return log_probs.gather(1, ids[0, 1:, None])[-len(completion.ids) :].sum().item()


def test_a_fresh_adapter_changes_nothing(policy, tokenizer):
    result = evaluate(policy, tokenizer, n=16)
    assert result["before"] == result["after"]
    assert result["kl"] == pytest.approx(0, abs=1e-5)
    assert all(sample["before"] == sample["after"] for sample in result["samples"])


def test_kl_is_the_mean_log_ratio_of_the_policys_own_samples(policy, tokenizer):
    move(policy, 0.3)
    prompts = held_out_prompts()[:12]
    result = evaluate(policy, tokenizer, prompts, n=12, seed=5)
    completions = sample(policy, tokenizer, prompts, seed=5, max_new_tokens=80)
    with_adapter = torch.tensor([plain_logp(policy, completion) for completion in completions])
    with policy.disable_adapter():
        without = torch.tensor([plain_logp(policy, completion) for completion in completions])
    log_ratios = with_adapter - without
    assert result["kl"] == pytest.approx(log_ratios.mean().item(), abs=1e-4)
    assert result["kl_se"] == pytest.approx(log_ratios.std().item() / 12**0.5, abs=1e-4)
    assert abs(result["kl"]) > 0.01


def test_batched_logps_equal_plain_ones_whatever_the_batch(policy, tokenizer):
    move(policy, 0.3)
    completions = sample(policy, tokenizer, held_out_prompts()[:7], seed=0, max_new_tokens=80)
    expected = [plain_logp(policy, completion) for completion in completions]
    for batch_size in (1, 3, 7):
        assert logps(policy, tokenizer, completions, batch_size).tolist() == pytest.approx(expected, abs=1e-4)


def test_samples_follow_the_models_distribution(policy, tokenizer):
    # First token of 2000 answers to one prompt against the model's own probabilities: 5 standard errors.
    n, prompt = 2000, "How was the hotel in Rome?"
    first = [c.ids[0] for c in sample(policy, tokenizer, [prompt] * n, seed=0, max_new_tokens=1, batch_size=n)]
    [completion] = sample(policy, tokenizer, [prompt], seed=0, max_new_tokens=1)
    with torch.no_grad():
        probabilities = policy(input_ids=torch.tensor([completion.prompt_ids])).logits[0, -1].softmax(-1)
    for token in probabilities.topk(5).indices.tolist():
        p = probabilities[token].item()
        assert first.count(token) / n == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)


def test_truncated_completions_count_as_not_ended(policy, tokenizer):
    result = evaluate(policy, tokenizer, n=8, max_new_tokens=3)
    assert result["after"]["ended"] == 0 and result["after"]["length"] == 3
    assert result["after"]["fluency"] == 0


def test_any_reward_and_no_fluency(policy, tokenizer):
    result = evaluate(policy, tokenizer, ["How was the hotel in Rome?"], n=4, reward=len, fluency=None)
    assert result["after"]["reward"] > 10
    assert "fluency" not in result["after"]


def test_the_run_it_interrupts_goes_on_as_if_nothing_happened(policy, tokenizer):
    policy.train()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    evaluate(policy, tokenizer, n=4)
    assert torch.equal(torch.rand(4), expected)
    assert policy.training


def test_a_model_without_adapter_is_refused(tokenizer):
    model = LlamaForCausalLM.from_pretrained(MODEL)
    with pytest.raises(ValueError, match="has no adapter"):
        evaluate(model, tokenizer, n=2)


def test_default_fluency_asks_for_the_thing_of_the_prompt():
    from benchmarks.completions import grammar_fluency

    prompt = [{"role": "user", "content": "How was the hotel in Rome?"}]
    assert grammar_fluency("I loved the bed.", prompt) == 1
    assert grammar_fluency("I loved the soup.", prompt) == 0 and grammar.fluency("I loved the soup.") == 1
