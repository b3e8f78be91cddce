"""A reward model is refused as a policy, from its configuration alone; what is named instead depends on the kind of training."""

import json

import pytest
from peft import LoraConfig
from transformers import LlamaForSequenceClassification

from tests.recipe.helpers import problem, write
from tests.trainers.helpers import lora
from trl_ext import recipe
from trl_ext.build.model import require_policy
from trl_ext.model_files import task
from trl_ext.support.errors import UserError
from trl_ext.trainers.common import adapters

ADAPTER = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "org/base",
    "modules_to_save": ["score"],
}
KINDS = {
    "dpo": "",
    "kto": "loss: kto\n",
    "sft": "trainer: sft\n",
    "ppo": "trainer: ppo\nreward_funcs: [sentiment]\n",
    "online": "trainer: online\nreward_funcs: [sentiment]\n",
}


def base_of(folder) -> str:
    return f"model_name_or_path: {folder}\ndataset_name: embedded\n"


def made(folder, name: str, **content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_run_is_no_policy(kind, tmp_path):
    folder = made(tmp_path / "reward", "adapter_config.json", **ADAPTER)
    said = problem(tmp_path, KINDS[kind], base_of(folder))
    assert (
        f"is {folder}, an adapter of a reward model" in said and "name the model it was trained on (org/base)" in said
    )
    assert (f"`reward_adapter: {folder}`" in said) == (kind in ("ppo", "online"))


@pytest.mark.parametrize("kind", KINDS)
def test_neither_is_a_whole_reward_model(kind, tmp_path):
    folder = made(tmp_path / "m", "config.json", model_type="llama", architectures=["LlamaForSequenceClassification"])
    peft = "use_peft: true\n" if kind in ("ppo", "online") else ""
    said = problem(tmp_path, KINDS[kind] + peft, base_of(folder))
    assert f"is {folder}, a reward model (LlamaForSequenceClassification). It gives scores" in said
    assert (f"`reward_funcs: [{folder}]`" in said) == (kind in ("ppo", "online"))


def test_it_may_be_trained_further_as_a_reward_model(tmp_path):
    folder = made(tmp_path / "m", "config.json", model_type="llama", architectures=["LlamaForSequenceClassification"])
    recipe.load(write(tmp_path, "trainer: reward\n", base_of(folder)))


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        ({"task_type": "CAUSAL_LM"}, True),
        ({"task_type": None}, True),
        ({"task_type": None, "modules_to_save": ["embed_tokens"]}, True),
        ({"task_type": None, "modules_to_save": ["score"]}, False),
        ({"task_type": "CAUSAL_LM", "modules_to_save": ["classifier", "score"]}, False),
        ({"task_type": "TOKEN_CLS"}, False),
        ({"task_type": "FEATURE_EXTRACTION"}, False),
    ],
)
def test_adapters_of_language_models(content, is_one, tmp_path):
    made(tmp_path, "adapter_config.json", **content)
    assert (task.not_a_language_model(tmp_path) is None) == is_one


@pytest.mark.parametrize(
    "name",
    ["BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering", "Qwen2ForSequenceClassification"],
)
def test_architectures_without_a_language_modelling_head(name, tmp_path):
    made(tmp_path, "config.json", architectures=[name])
    assert name in task.not_a_language_model(tmp_path)
    made(tmp_path, "config.json", architectures=["LlamaForCausalLM"])
    assert task.not_a_language_model(tmp_path) is None


def test_a_run_refuses_it_too_before_weights_are_loaded(tmp_path):
    """As a model on the Hub, whose files `validate` does not read."""
    folder = made(tmp_path / "m", "config.json", model_type="llama", architectures=["LlamaForSequenceClassification"])
    values = {"model_name_or_path": str(folder)}
    with pytest.raises(UserError, match="It is a reward model"):
        require_policy(recipe.Recipe(tmp_path, values, set(values), None, {}))
    made(tmp_path / "a", "adapter_config.json", **ADAPTER)
    values = {"model_name_or_path": str(tmp_path / "a")}
    with pytest.raises(UserError, match="an adapter of a reward model"):
        require_policy(recipe.Recipe(tmp_path, values, set(values), None, {}))
    require_policy(recipe.Recipe(tmp_path, {**values, "trainer": "reward"}, set(values), None, {}))


def test_trainers_refuse_a_classifier_and_its_adapter(tiny_model):
    with pytest.raises(ValueError, match=r"a reward model \(LlamaForSequenceClassification\)"):
        adapters.refuse(LlamaForSequenceClassification.from_pretrained(tiny_model, num_labels=1), None)
    with pytest.raises(ValueError, match=r"no language-modelling head to train\. Use `task_type='CAUSAL_LM'`"):
        adapters.refuse("org/base", LoraConfig(task_type="SEQ_CLS"))
    adapters.refuse("org/base", lora())
