"""The audit's numbers against enumeration, and its sampled ones against what they estimate."""

import itertools
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.rl.helpers import expected_gradient, gradient, language_and_policies
from trl_ext.kl_audit import sampled
from trl_ext.kl_audit.exact import CELLS, audit_exactly, small_language
from trl_ext.kl_audit.sampled import audit_samples, compare_gradients, true_surrogate
from trl_ext.rl import objectives, truth_table
from trl_ext.support.sampling import logps, sample


def test_the_exact_audit_is_what_enumeration_gives():
    language, ref_logits, step = small_language()
    logits = ref_logits + 0.7 * step
    audit = audit_exactly(0.7)
    assert [row.cell for row in audit.rows] == CELLS
    assert audit.kl == pytest.approx(language.kl(logits, ref_logits).item())
    true = gradient(lambda x: language.kl(x, ref_logits), logits).flatten()
    d = language.logps(logits) - language.logps(ref_logits)
    values = {
        ("k1", "token"): d.sum(1),
        ("k1", "sequence"): d.sum(1),
        ("k2", "token"): (d**2 / 2).sum(1),
        ("k2", "sequence"): d.sum(1) ** 2 / 2,
        ("k3", "token"): (torch.exp(-d) - 1 + d).sum(1),
        ("k3", "sequence"): torch.exp(-d.sum(1)) - 1 + d.sum(1),
    }
    values |= {("k3+", level): values["k3", level] for level in ("token", "sequence")}
    weights = language.probabilities(logits)
    for row in audit.rows:
        value = values[row.estimator, row.level]
        mean = (weights * value).sum()
        assert row.value_bias == pytest.approx((mean / audit.kl - 1).item(), abs=1e-12)
        variance = (weights * value**2).sum() - mean**2
        assert row.value_variance == pytest.approx((variance / audit.kl**2).item(), rel=1e-9)
        found = expected_gradient(language, logits, ref_logits, row.cell).flatten()
        assert row.error == pytest.approx(((found - true).norm() / true.norm()).item(), abs=1e-7)
        assert (row.error < 1e-7) == (row.cell in truth_table.EXACT)
        if row.cell[:2] != ("k1", "loss"):
            assert row.cosine == pytest.approx(torch.cosine_similarity(found, true, 0).item(), abs=1e-9)
        else:
            assert math.isnan(row.cosine)


def test_cells_with_the_same_gradient_for_every_completion_are_known():
    language, ref_logits, step = small_language()
    logits = (ref_logits + step).requires_grad_()

    def gradients(cell):
        estimator, placement, level = cell
        each = objectives.kl_surrogate(
            language.logps(logits), language.logps(ref_logits), language.mask,
            estimator=estimator, placement=placement, level=level,
        )  # fmt: skip
        return torch.autograd.grad(each, logits, torch.eye(len(each)).double(), is_grads_batched=True)[0]

    found = {cell: gradients(cell) for cell in CELLS}
    for cell, other in itertools.combinations(CELLS, 2):
        first, second = (sampled.SAME_GRADIENT.get(each, each) for each in (cell, other))
        assert torch.allclose(found[cell], found[other], atol=1e-12) == (first == second), (cell, other)


def test_gradient_variance_of_the_score_function():
    """k1 in the loss: the gradient of a completion is ∇log π, whose mean is zero, so its variance is E|∇log π|²."""
    language, ref_logits, step = small_language()
    logits = ref_logits + step
    squares = torch.stack(
        [
            gradient(lambda x, i=i: language.logps(x)[i].sum(), logits).square().sum()
            for i in range(len(language.tokens))
        ]
    )
    true = gradient(lambda x: language.kl(x, ref_logits), logits).square().sum()
    expected = (language.probabilities(logits) * squares).sum() / true
    row = next(row for row in audit_exactly().rows if row.cell == ("k1", "loss", "sequence"))
    assert row.gradient_variance == pytest.approx(expected.item(), rel=1e-9)


def test_the_sum_over_the_vocabulary_is_unbiased_in_value_and_gradient():
    language, logits, ref_logits = language_and_policies()
    probabilities = language.probabilities(logits)

    def terms(x):
        logp, ref_logp = (y.log_softmax(-1)[language.states] for y in (x, ref_logits))
        return true_surrogate(language.logps(x), logp, ref_logp, language.mask)

    assert (probabilities * terms(logits)[0]).sum().item() == pytest.approx(language.kl(logits, ref_logits).item())
    torch.testing.assert_close(
        gradient(lambda x: (probabilities * terms(x)[1]).sum(), logits),
        gradient(lambda x: language.kl(x, ref_logits), logits),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("cell", [("k2", "loss", "sequence"), ("k3", "loss", "sequence"), ("k3", "reward", "token")])
def test_sampled_gradients_are_compared_without_the_bias_of_their_noise(cell):
    """Mean over 40 draws of the estimates against the exact cosine and error, of gradients that are mostly noise."""
    language, logits, ref_logits = language_and_policies(distance=0.4)
    probabilities = language.probabilities(logits)
    true = gradient(lambda x: language.kl(x, ref_logits), logits).flatten()
    mean = expected_gradient(language, logits, ref_logits, cell).flatten()
    estimator, placement, level = cell
    inputs = logits.clone().requires_grad_()
    each = objectives.kl_surrogate(
        language.logps(inputs),
        language.logps(ref_logits),
        language.mask,
        estimator=estimator,
        placement=placement,
        level=level,
    )
    per_completion = torch.autograd.grad(each, inputs, torch.eye(len(each)).double(), is_grads_batched=True)[
        0
    ].flatten(1)
    size, chunks, generator = 64, 32, torch.Generator().manual_seed(0)
    found = []
    for _ in range(40):
        rows = torch.multinomial(probabilities, size * chunks, replacement=True, generator=generator)
        means = per_completion[rows].unflatten(0, (chunks, size)).mean(1)
        found.append(compare_gradients(means, true.expand(chunks, -1), size))
    for name, exact in (
        ("cosine", torch.cosine_similarity(mean, true, 0).item()),
        ("squared_error", ((mean - true).square().sum() / true.square().sum()).item()),
        (
            "gradient_variance",
            ((probabilities @ (per_completion - mean).square()).sum() / true.square().sum()).item(),
        ),
    ):
        values = torch.tensor([each[name] for each in found])
        assert values.mean().item() == pytest.approx(exact, abs=8 * values.std().item() / math.sqrt(40)), name
        if name != "gradient_variance":
            claimed = sum(each[f"{name}_se"] for each in found) / 40
            assert 0.5 < claimed / values.std().item() < 2, name


@pytest.fixture(scope="module")
def policy(tiny_model):
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    return model, AutoTokenizer.from_pretrained(tiny_model)


def test_a_models_rollouts(policy, monkeypatch):
    """Values against the demo's own log-probabilities; the same audit in one pass and in passes of one completion."""
    model, tokenizer = policy
    prompts = [tokenizer(text)["input_ids"] for text in ("the one", "when you are")]
    completions = sample(model, tokenizer, prompts * 32, seed=0, max_new_tokens=6)
    audit = audit_samples(model, tokenizer, completions)
    with model.disable_adapter():
        ref_logps = logps(model, tokenizer, completions)
    d = (logps(model, tokenizer, completions) - ref_logps).double()
    k1 = next(row for row in audit.rows if row.cell == ("k1", "reward", "sequence"))
    k2 = next(row for row in audit.rows if row.cell == ("k2", "loss", "sequence"))
    assert (k1.value_bias + 1) * audit.kl == pytest.approx(d.mean().item(), rel=1e-4)
    assert (k2.value_bias + 1) * audit.kl == pytest.approx((d**2 / 2).mean().item(), rel=1e-4)
    assert k1.value_variance * audit.kl**2 == pytest.approx(d.var().item(), rel=1e-4)
    assert abs(k1.value_bias) < 5 * k1.value_bias_se and audit.kl_se > 0
    assert all(p.requires_grad == ("lora" in name) and p.grad is None for name, p in model.named_parameters())

    assert sampled.measure_kl(model, tokenizer, completions) == pytest.approx((audit.kl, audit.kl_se), rel=1e-5)
    seen = []
    audit_samples(model, tokenizer, completions, lambda items, total: seen.append(total) or items)
    assert seen == [sampled.GRADIENT_CHUNKS]

    monkeypatch.setattr(sampled, "LARGEST_LOGITS", 1)
    in_pieces = audit_samples(model, tokenizer, completions)
    assert in_pieces.kl == pytest.approx(audit.kl, rel=1e-4)
    for ours, other in zip(audit.rows, in_pieces.rows, strict=True):
        assert ours.squared_error == pytest.approx(other.squared_error, rel=1e-2, abs=1e-3)


def test_gradients_of_a_part_of_the_adapter(policy, monkeypatch):
    model, tokenizer = policy
    completions = sample(model, tokenizer, [tokenizer("the one")["input_ids"]] * 64, seed=0, max_new_tokens=4)
    monkeypatch.setattr(sampled, "LARGEST_GRADIENT", 1000)
    audit = audit_samples(model, tokenizer, completions)
    assert 0 < audit.n_weights <= 1000
    assert all(p.requires_grad for name, p in model.named_parameters() if "lora" in name)


def test_an_adapter_that_changes_nothing_is_said(tiny_model):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=4, task_type="CAUSAL_LM"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    completions = sample(model, tokenizer, [[5, 6]] * 64, seed=0, max_new_tokens=3)
    with pytest.raises(ValueError, match="Policy and reference are the same"):
        audit_samples(model, tokenizer, completions)
