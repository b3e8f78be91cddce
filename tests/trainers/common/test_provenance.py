"""What a manifest says about the model that a run started from."""

from types import SimpleNamespace

import torch
from peft import IA3Config, get_peft_model
from transformers import AutoModelForCausalLM

from trl_ext.reference import frozen_copy
from trl_ext.trainers.common import provenance


def test_a_checkpoint_knows_which_adapter_of_any_type_its_run_continued(tiny_model):
    """IA3 has vectors and no LoRA B."""
    found = set()
    for value in (0.5, 0.6):
        config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.fill_(value)
        frozen_copy.add(model)
        found.add(provenance._model(SimpleNamespace(model=model, args=SimpleNamespace()))["starts_from"])
    assert len(found) == 2
