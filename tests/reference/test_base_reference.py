"""`reference: base` of a run that continues an adapter: the loss against plain PEFT with its adapter off."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory):
    """The folder of an adapter with an effect."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


def continued(tiny_model, adapter) -> PeftModel:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter, is_trainable=True)


def by_hand(tiny_model, adapter, rows, *, starts_equal: bool) -> float:
    """Mean of −log σ(β·(Δ_w − Δ_l)) with β = 0.1, from one row at a time; Δ is 0 where policy and reference are equal."""
    model, tokenizer = continued(tiny_model, adapter).eval(), AutoTokenizer.from_pretrained(tiny_model)

    def ratio(prompt: str, completion: str) -> torch.Tensor:
        start = tokenizer(prompt)["input_ids"]
        ids = torch.tensor([[*start, *tokenizer(completion)["input_ids"], tokenizer.eos_token_id]])

        def logps() -> torch.Tensor:
            return model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[len(start) - 1 :].sum()

        with torch.no_grad():
            policy = logps()
            with model.disable_adapter():
                return policy - (policy if starts_equal else logps())

    margins = torch.stack([ratio(r["prompt"], r["chosen"]) - ratio(r["prompt"], r["rejected"]) for r in rows])
    return -logsigmoid(0.1 * margins).mean().item()


@pytest.mark.parametrize(
    "settings",
    [
        {"reference": "base"},
        {"reference": "base", "precompute_ref_log_probs": True},
        {"reference": "start"},
        {},
    ],
    ids=str,
)
def test_the_first_loss(tiny_model, adapter, tmp_path, settings):
    rows = pairs(4)
    args = PairedPreferenceConfig(
        output_dir=str(tmp_path), loss="dpo", beta=0.1, per_device_train_batch_size=4, max_steps=1, logging_steps=1,
        report_to="none", save_strategy="no", reference_cache=False, use_cpu=True, bf16=False, disable_dropout=True, **settings,
    )  # fmt: skip
    trainer = PairedPreferenceTrainer(
        model=continued(tiny_model, adapter),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    is_base = settings.get("reference") == "base"
    assert (FROZEN_COPY in trainer.model.peft_config) == (not is_base)
    trainer.train()
    expected = by_hand(tiny_model, adapter, rows, starts_equal=not is_base)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)
    assert (abs(expected - 0.6931472) < 1e-6) == (not is_base)
