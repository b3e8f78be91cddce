"""The reference that completions are scored under has no dropout, and is an exact copy of an adapter that is continued."""

from collections import Counter

import pytest
import torch
from peft import IA3Config, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import lora
from tests.trainers.ppo.helpers import build, config

BY_PEFT = ("disable_adapter", "set_adapter")
ADAPTERS = {
    "dropout": lora(lora_dropout=0.5),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_its_log_probabilities_are_those_of_plain_peft(name, model, tmp_path):
    torch.manual_seed(0)
    given = get_peft_model(AutoModelForCausalLM.from_pretrained(model), ADAPTERS[name])
    with torch.no_grad():
        for parameter in given.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    given.save_pretrained(tmp_path / "a")
    continued = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model), tmp_path / "a", is_trainable=True
    )
    trainer = build(continued, config(tmp_path, max_steps=1), path=model, peft_config=None, randomise=False)
    trainer.train()  # in training mode, with dropout on
    given.eval()
    for batch in trainer._buffered_inputs:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad():
            logps = given(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        logps = logps.gather(-1, ids[:, 1:, None]).squeeze(-1)[:, -batch["completion_ids"].shape[1] :]
        counts = batch["completion_mask"].bool()
        assert torch.allclose(batch["ref_per_token_logps"][counts], logps[counts], atol=1e-4)


def test_adapters_are_switched_by_flags(model, tmp_path, monkeypatch):
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora()).save_pretrained(tmp_path / "a")
    base = AutoModelForCausalLM.from_pretrained(model)
    continued = PeftModel.from_pretrained(base, tmp_path / "a", is_trainable=True)
    for trainer in (
        build(model, config(tmp_path / "fresh", max_steps=1)),
        build(continued, config(tmp_path / "continued", max_steps=1), path=model, peft_config=None),
    ):
        switches = Counter()
        for method in BY_PEFT:
            original = getattr(PeftModel, method)
            monkeypatch.setattr(PeftModel, method, _counted(original, switches, method))
        trainer.train()
        monkeypatch.undo()
        assert not switches


def _counted(original, calls, name):
    def call(*args, **kwargs):
        calls[name] += 1
        return original(*args, **kwargs)

    return call
