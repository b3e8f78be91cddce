"""The adapter a run leaves, loaded by PEFT alone on the 4-bit base: the trainer's own log-probabilities."""

import pytest
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, nf4
from trl_ext import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.export.held_out import completions_of
from trl_ext.methods import METHODS
from trl_ext.support.sampling import logps


def test_peft_loads_what_was_trained(tiny_model, tmp_path):
    rows = pairs(10, seed=5)
    trainer = build(
        PairedPreferenceTrainer,
        PairedPreferenceConfig(**arguments(tmp_path / "run", loss="ipo", learning_rate=0.05)),
        tiny_model,
        eval_dataset=Dataset.from_list(rows),
        quantization_config=nf4(),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    said = trainer.evaluate()

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=nf4()), tmp_path / "run"
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    completions = completions_of(METHODS["paired"], Dataset.from_list(rows), tokenizer, trainer.args)
    found = logps(model, tokenizer, completions)
    with model.disable_adapter():
        assert (logps(model, tokenizer, completions) - found).abs().min() > 1e-3  # training moved every one of them
    assert said["eval_logps/chosen"] == pytest.approx(found[0::2].mean().item(), abs=1e-4)
    assert said["eval_logps/rejected"] == pytest.approx(found[1::2].mean().item(), abs=1e-4)
