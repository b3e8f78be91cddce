"""A base that an adapter changed is loaded again for the next trainer."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from tests.trainers.helpers import lora
from trl_ext.build.shared_base import SharedBase


@pytest.mark.parametrize("init", [True, "pissa"])
def test_the_next_loan_is_the_original_base(init, tiny_model):
    lender = SharedBase()
    model = get_peft_model(lender.lend(tiny_model, dtype="float32"), lora(init_lora_weights=init))
    lender.take_back(SimpleNamespace(model=model, accelerator=Accelerator(cpu=True)))
    assert (lender.model is None) == (init == "pissa")
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        again = lender.lend(tiny_model, dtype="float32").eval()(input_ids=ids).logits
        assert torch.equal(again, AutoModelForCausalLM.from_pretrained(tiny_model).eval()(input_ids=ids).logits)
