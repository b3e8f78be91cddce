"""What gets a LoRA in a mixture of experts."""

import pytest
from peft.utils import transformers_weight_conversion as conversion
from transformers import AutoModelForCausalLM

from tests.experts.helpers import MIXTURES
from trl_ext.experts import targets


@pytest.mark.parametrize("name", MIXTURES)
def test_the_linear_layers_outside_experts_are_those_of_attention(name):
    model = AutoModelForCausalLM.from_config(MIXTURES[name])
    assert targets.has_experts(model)
    assert targets.outside_experts(model) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    ends = targets.ends_of_parameters(model)
    assert ends[:2] == ["experts.down_proj", "experts.gate_up_proj"]
    assert targets.unknown_parameters(model, [*ends, "experts.up_prj", "gate_up"]) == ["experts.up_prj", "gate_up"]


def test_names_that_peft_takes_for_experts():
    mapped = {name for family in conversion._MOE_TARGET_MODULE_MAPPING.values() for name in family}
    assert mapped <= targets.OF_AN_EXPERT
