"""What gets a LoRA in a mixture of experts."""

from types import SimpleNamespace

import pytest
from peft.utils import transformers_weight_conversion as conversion
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from tests.experts.helpers import MIXTURES, adapt
from trl_ext.build import model as building
from trl_ext.experts import targets
from trl_ext.recipe import load
from trl_ext.support.errors import UserError
from trl_ext.trainers.rollout import vllm_weights


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


def test_vllm_is_sent_no_adapted_experts(mixture, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"model_name_or_path: {mixture}\ndataset_name: embedded\ntrainer: grpo\nreward_funcs: [think_format_reward]\n"
        "use_peft: true\nuse_vllm: true\nlora_target_modules: [q_proj, gate_proj, up_proj]\n"
    )
    recipe, args = load(path), SimpleNamespace(use_vllm=True, trust_remote_code=False)
    asked = ModelConfig(mixture, use_peft=True, lora_target_modules=["q_proj", "gate_proj", "up_proj"])
    with pytest.raises(UserError, match="cannot be built from a LoRA on experts"):
        building._new_adapter(recipe, args, asked, [])
    base, generation = AutoModelForCausalLM.from_pretrained(mixture), SimpleNamespace()
    with pytest.raises(ValueError, match="no experts"):  # a pattern is read by PEFT alone
        vllm_weights.sent_merged(generation, adapt(base, target_modules=["q_proj", "gate_proj", "up_proj"]))
    assert not vars(generation)
