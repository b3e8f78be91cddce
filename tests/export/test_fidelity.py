"""Drifts against log-probabilities of whole models run one sequence at a time, without padding, hooks or kept states."""

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, CohereConfig, Gemma2Config, LlamaConfig

from tests.export.helpers import SIZES
from trl_ext.export import fidelity, verdict
from trl_ext.export.fidelity import Drift, Fidelity, FileDrift
from trl_ext.support.sampling import Completion

CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "logits scaled": CohereConfig(**SIZES, logit_scale=0.3),
    "logits capped": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0, attn_implementation="eager"),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def completions():
    rng = random.Random(0)
    lengths = [(3, 5), (9, 1), (1, 12), (4, 4), (2, 7)]
    return [
        Completion([rng.randrange(4, 96) for _ in range(a)], [rng.randrange(4, 96) for _ in range(b)], "", True)
        for a, b in lengths
    ]


def model_of(config, seed, scale=4.0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.mul_(scale)
    return model


@torch.no_grad()
def by_hand(earlier, later, completions) -> Drift:
    kl, token, sequence, same = [], [], [], []
    for prompt, ids, *_ in completions:
        p, q = (
            model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
            for model in (earlier, later)
        )
        kl.append(torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1))
        drift = (p - q)[range(len(ids)), ids]
        token.append(drift.abs().max())
        sequence.append(drift.sum().abs())
        same.append((p.argmax(-1) == q.argmax(-1)).double())
    return Drift(torch.cat(kl).mean().item(), max(token).item(), max(sequence).item(), torch.cat(same).mean().item())


def close(found: Drift, expected: Drift) -> bool:
    return vars(found) == pytest.approx(vars(expected), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_drift_is_that_of_whole_models(name, tokenizer, completions, monkeypatch):
    earlier, later = model_of(CONFIGS[name], 0), model_of(CONFIGS[name], 1)  # their heads differ too
    expected = by_hand(earlier, later, completions)
    assert expected.kl > 0.01
    monkeypatch.setattr(fidelity, "BLOCK", 3 * 2 * 96)  # blocks that end in the middle of a completion
    for limit in (2**27, 2 * 3 * 13 * 96, 1):  # one batch, some, one each
        monkeypatch.setattr(fidelity, "LARGEST_LOGITS", limit)
        batches = fidelity._batches(completions, 96)
        assert [c for batch in batches for c in batch] == sorted(completions, key=lambda c: -len(c.ids))
        kept = fidelity.keep(earlier, tokenizer, batches)
        assert close(fidelity.compare(kept, later, tokenizer, batches), expected)
    assert not any(model.get_output_embeddings()._forward_hooks for model in (earlier, later))


@pytest.mark.parametrize("options", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["lm_head", "q_proj"]}])
def test_an_adapter_on_the_head_is_off_where_it_was_off(options, tokenizer, completions):
    config = LlamaConfig(**SIZES)
    bare = model_of(config, 0)
    lora = LoraConfig(
        **{"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"} | options
    )
    model = get_peft_model(model_of(config, 0), lora)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data.add_(0.1)
    batches = fidelity._batches(completions, 96)
    with model.disable_adapter():
        kept = fidelity.keep(model, tokenizer, batches)
    expected = by_hand(bare, model, completions)
    assert expected.kl > 1e-4
    assert close(fidelity.compare(kept, model, tokenizer, batches), expected)
    back = fidelity.compare(fidelity.keep(model, tokenizer, batches), bare, tokenizer, batches)
    assert close(back, by_hand(model, bare, completions))


def test_another_program_is_compared_with_the_merged_and_the_trained_model(tokenizer, completions):
    """Logits of the program: those of a third model, a row of which stands for a token that the tokenizer lacks."""
    for name in ("llama", "logits capped"):
        trained, merged, other = (model_of(CONFIGS[name], seed) for seed in range(3))

        @torch.no_grad()
        def predict(completion, model=other):
            ids = torch.tensor([completion.prompt_ids + completion.ids])
            logits = model(ids).logits[0, len(completion.prompt_ids) - 1 : -1]
            return torch.cat([logits, torch.full((len(logits), 1), 9.0)], dim=1)

        batches = fidelity._batches(completions, 96)
        kept = fidelity.keep(trained, tokenizer, batches)
        found = fidelity.compare_served(kept, merged, tokenizer, batches, predict)
        assert close(found[0], by_hand(merged, other, completions))
        assert close(found[1], by_hand(trained, other, completions))
        assert found[0].kl > 0.01 and found[0].kl != pytest.approx(found[1].kl, rel=1e-3)
        assert not merged.get_output_embeddings()._forward_hooks


def test_files_in_the_table_and_in_words():
    found = measured(0.02, 0.5, 0.019, 1e-5)
    for name, size, is_quantised, merged, trained in (
        ("BF16", 2 * 10**9, False, 1e-6, 0.02),
        ("Q8_0", 10**9, True, 2e-4, 0.021),
        ("Q4_K_M", 6 * 10**8, True, 0.08, 0.1),
    ):
        drifts = [Drift(kl, 0.1, 0.2, 0.99) for kl in (merged, trained)]
        found.files.append(FileDrift(name, size, is_quantised, *drifts))
    rows = verdict.rows(found, "bfloat16")
    assert [row[:2] for row in rows[3:]] == [
        ("merged → BF16", "1e-06"),
        ("merged → Q8_0", "0.0002"),
        ("merged → Q4_K_M", "0.08"),
        ("trained → BF16", "0.02"),
        ("trained → Q8_0", "0.021"),
        ("trained → Q4_K_M", "0.1"),
        ("for scale: base → trained", "0.5"),
    ]
    assert [verdict.of_file(file, found) for file in found.files[1:]] == [
        "Q8_0 (1 GB): 0.021 nats per token from the trained model. The larger part comes from the merge (the merge 0.02 nats, "
        "quantisation to Q8_0 0.0002 nats).",
        "Q4_K_M (600 MB): 0.1 nats per token from the trained model. The larger part comes from quantisation to Q4_K_M (the merge "
        "0.02 nats, quantisation to Q4_K_M 0.08 nats).",
    ]
    assert verdict.far_files(found) == (
        "Q4_K_M (0.08 nats) is more than 0.001 nats per token from the merged model; BF16 is closer (1e-06 nats, 2 GB)."
    )


def test_files_that_are_far_from_the_model_and_what_is_closer():
    def said(kl, *, is_whole=False):
        drifts = {name: Drift(value, 0.1, 0.2, 0.99) for name, value in kl.items()}
        found = measured(None if is_whole else 0.1, 0.5)
        found.files += [
            FileDrift(name, 10**8, name != "BF16", None if is_whole else drift, drift)
            for name, drift in drifts.items()
        ]
        return verdict.far_files(found)

    assert said({}) is None and said({"BF16": 1e-4, "Q8_0": 1e-3}) is None
    assert said({"BF16": 1e-4, "Q4_K_M": 0.07, "Q8_0": 0.004}, is_whole=True) == (
        "Q4_K_M (0.07 nats) and Q8_0 (0.004 nats) are more than 0.001 nats per token from the trained model; BF16 is closer "
        "(0.0001 nats, 100 MB)."
    )
    assert said({"BF16": 1e-4, "Q4_K_M": 0.07}) == (
        "Q4_K_M (0.07 nats) is more than 0.001 nats per token from the merged model; Q8_0, a larger type, would be closer, and BF16 is "
        "(0.0001 nats, 100 MB)."
    )
    assert said({"BF16": 0.002, "Q8_0": 0.004}).startswith("BF16 (0.002 nats) and Q8_0 (0.004 nats) are more than ")
    assert said({"BF16": 0.002, "Q8_0": 0.004}).endswith("the merged model, and no file that was measured is closer.")


def measured(total, training, quantisation=None, rounding=None) -> Fidelity:
    drifts = [None if kl is None else Drift(kl, 0.1, 0.2, 0.99) for kl in (total, training, quantisation, rounding)]
    return Fidelity(*drifts, base="4-bit", tokens=100, dtype="bfloat16", what="64 rows")


def test_the_verdict_names_the_main_part():
    cases = [
        (
            measured(0.01, 0.5, 0.009, 1e-5),
            ["Faithful", "2 % of the change", "comes from the 4-bit base", "differ by 0.009 nats"],
        ),
        (
            measured(0.1, 0.5, 0.009, 1e-5),
            ["Not quite faithful", "larger than the difference of the bases", "relies on the 4-bit"],
        ),
        (measured(0.4, 0.5, 0.39, 1e-5), ["Not faithful", "comes from the 4-bit base", "serve the adapter"]),
        (measured(0.01, 0.5, 0.009, 0.002), ["Faithful", "comes from the merge", "`--dtype float32` avoids"]),
        (measured(1e-5, 0.5), ["Faithful", "The difference comes from rounding the merged weights to bfloat16"]),
    ]
    other = measured(0.3, 0.5, 0.28, 1e-5)
    other.trained_on, other.merged_into = "org/other", "org/base"
    reliant = measured(0.7, 0.5, 0.28, 1e-5)
    reliant.trained_on, reliant.merged_into = "org/other", "org/base"
    cases += [
        (
            other,
            [
                "Not faithful",
                "trained on org/other and merged into org/base: without the adapter, these two differ by 0.28 nats",
            ],
        ),
        (reliant, ["relies on the model it was trained on"]),
    ]
    assert verdict.rows(other, "bfloat16")[1][0] == "base only, as trained → as merged into"
    assert "The total" not in verdict.in_words(other, "bfloat16")
    for fidelity_, expected in cases:
        text = verdict.in_words(fidelity_, "bfloat16")
        assert all(part in text for part in expected), text
    assert [row[0] for row in verdict.rows(cases[4][0], "bfloat16")] == [
        "trained → merged",
        "for scale: base → trained",
    ]
    assert verdict.rows(cases[0][0], "bfloat16")[1] == (
        "base only, 4-bit → unquantised", "0.009", "0.1", "0.2", "99.0 %",
    )  # fmt: skip
