"""Targets of a LoRA are those that PEFT finds, experts that are fused into tensors too."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen3MoeConfig

from tests.export.helpers import SIZES
from trl_ext.build import lora_targets
from trl_ext.support.errors import UserError

LLAMA = LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"])
MIXTRAL = MixtralConfig(**SIZES, num_local_experts=4, architectures=["MixtralForCausalLM"])
QWEN3_MOE = Qwen3MoeConfig(
    **SIZES, moe_intermediate_size=24, num_experts=4, head_dim=8, architectures=["Qwen3MoeForCausalLM"]
)
MLP = ["gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("config", "targets", "has_experts"),
    [
        (LLAMA, ["q_proj", *MLP], False),
        (QWEN3_MOE, ["q_proj", *MLP], True),
        (QWEN3_MOE, ["q_proj", "down_proj"], True),
        (QWEN3_MOE, ["q_proj"], False),
        (MIXTRAL, ["v_proj", "w1", "w2", "w3"], True),
        (MIXTRAL, ["self_attn.v_proj"], False),
    ],
)
def test_what_peft_finds_is_taken(config, targets, has_experts, tmp_path):
    config.save_pretrained(tmp_path)
    assert lora_targets.check(str(tmp_path), set(targets)).has_experts is has_experts
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model = get_peft_model(model, LoraConfig(target_modules=targets))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and has_experts is any(".experts." in name for name in trained)


@pytest.mark.parametrize(
    ("config", "targets", "said"),
    [
        (LLAMA, ["q_proj", "w1"], "names w1, which"),
        (QWEN3_MOE, ["q_prj", *MLP], "names q_prj, which"),
        (QWEN3_MOE, ["q_proj", "up_proj"], "without also targeting gate_proj"),
    ],
)
def test_what_it_does_not_find_is_refused(config, targets, said, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"`lora_target_modules`.*{said}"):
        lora_targets.check(str(tmp_path), set(targets))


@pytest.mark.parametrize(
    ("config", "parameters", "said"),
    [
        (QWEN3_MOE, ["experts.down_prj"], "names experts.down_prj, which .* Did you mean experts.down_proj?"),
        (
            MIXTRAL,
            ["experts.down_proj", "w2"],
            "names w2, which .* Its matrices are experts.down_proj, experts.gate_up_proj, ",
        ),
    ],
)
def test_parameters_that_do_not_exist_are_refused(config, parameters, said, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"`lora_target_parameters` {said}"):
        lora_targets.check(str(tmp_path), "all-linear", parameters=parameters)


def test_all_linear_of_a_mixture_leaves_experts_out(tmp_path):
    QWEN3_MOE.save_pretrained(tmp_path)
    found = lora_targets.check(str(tmp_path), "all-linear", parameters=["experts.gate_up_proj"])
    assert found == (["k_proj", "o_proj", "q_proj", "v_proj"], True, True)
    LLAMA.save_pretrained(tmp_path)
    assert lora_targets.check(str(tmp_path), "all-linear") == ("all-linear", False, False)
