"""Policy and reference are compared with the model that was given, before the first step. Faults that were silent are found."""

import pytest
import torch
from datasets import Dataset
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, intercept, lora
from trl_ext.reference import frozen_copy, starting_point
from trl_ext.reference.starting_point import StartingPoint, WrongStartError
from trl_ext.trainers import PairedPreferenceConfig, PairedPreferenceTrainer
from trl_ext.trainers.common import lora as lora_dtypes

IA3 = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"], "task_type": "CAUSAL_LM"}


def adapter(tiny_model, folder, config):
    """A trained adapter in a folder."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def continued(tiny_model, folder, **options):
    base = AutoModelForCausalLM.from_pretrained(tiny_model, **options)
    return PeftModel.from_pretrained(base, folder, is_trainable=True)


def trainer(tiny_model, tmp_path, model, **changes):
    return PairedPreferenceTrainer(
        model=model,
        args=PairedPreferenceConfig(**arguments(tmp_path, max_steps=1, **changes)),
        train_dataset=Dataset.from_list(pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (lora(init_lora_weights="pissa"), {}),
        (lora(target_modules=["embed_tokens", "q_proj"]), {}),
        (IA3Config(**IA3), {}),
        (lora(lora_dropout=0.3), {"disable_dropout": False}),
        (lora(modules_to_save=["norm"]), {"bf16": True}),
    ],
    ids=["pissa", "embeddings", "ia3", "dropout", "bf16"],
)
def test_the_log_reports_the_comparison_and_the_loss_is_known(config, changes, tiny_model, tmp_path, capsys):
    """With dropout on, the loss is random, and the comparison is the only check."""
    made = trainer(tiny_model, tmp_path, continued(tiny_model, adapter(tiny_model, tmp_path / "a", config)), **changes)
    assert frozen_copy.policy_is_reference(made.model)
    made.train()
    printed = capsys.readouterr().out
    assert "start: policy and reference equal base and adapter as PEFT loads them" in printed
    assert ("not checked: dropout" if "disable_dropout" in changes else "0.6931, the known value") in printed


def test_a_base_that_is_changed_in_construction_stops_the_run(tiny_model, tmp_path, monkeypatch):
    """As TRL's own copy of a PiSSA adapter does: it reduces the base again, and policy and reference still agree."""

    def with_the_same_configuration(config):
        return config

    monkeypatch.setattr(frozen_copy, "inert", with_the_same_configuration)
    model = continued(tiny_model, adapter(tiny_model, tmp_path / "a", lora(init_lora_weights="pissa")))
    with pytest.raises(
        WrongStartError, match=r"^Before the first step, the policy differs by .* nats per token"
    ) as raised:
        trainer(tiny_model, tmp_path, model)
    assert "\n" not in str(raised.value)


def test_a_reference_with_other_weights_stops_the_run(tiny_model, tmp_path, monkeypatch):
    """As TRL's own copy of IA3 does: its vectors stay those of a new adapter."""
    monkeypatch.setattr(frozen_copy, "set_peft_model_state_dict", lambda *args, **kwargs: None)
    model = continued(tiny_model, adapter(tiny_model, tmp_path / "a", IA3Config(**IA3)))
    with pytest.raises(frozen_copy.CopyError, match=r"ia3_l\.default differs in its frozen copy"):
        trainer(tiny_model, tmp_path, model)


def test_a_policy_that_lost_its_weights_in_construction_stops_the_run(tiny_model, tmp_path, monkeypatch):
    def lost(model, weights, dtype):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.zeros_like(parameter)

    monkeypatch.setattr(lora_dtypes, "restore", lost)
    with pytest.raises(WrongStartError, match="the policy differs"):
        trainer(tiny_model, tmp_path, continued(tiny_model, adapter(tiny_model, tmp_path / "a", lora())))


def test_an_adapter_on_the_head_is_not_silently_left_out(tiny_model, tmp_path):
    """TRL's fused head reads the weight of lm_head, without an adapter on it."""
    folder = adapter(tiny_model, tmp_path / "a", lora(target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ValueError):
        trainer(tiny_model, tmp_path, continued(tiny_model, folder))


def test_the_row_contains_the_tokens_that_are_trained_one_by_one_and_no_special_ones(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    row = StartingPoint(
        get_peft_model(base, LoraConfig(trainable_token_indices=[151, 152], target_modules=["q_proj"]))
    ).ids
    assert row.shape[1] == starting_point.LENGTH + 2
    assert {151, 152} <= set(row[0].tolist()) and not {0, 2, 3} & set(row[0].tolist())


def test_a_new_adapter_without_an_effect_is_found_for_every_type(tiny_model):
    """IA3 multiplies by ones, and a LoRA that is initialised at random has an effect."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert frozen_copy.policy_is_reference(get_peft_model(base, IA3Config(**IA3)))
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert not frozen_copy.policy_is_reference(get_peft_model(base, lora(init_lora_weights=False)))


def test_a_reference_of_a_finished_run_is_loaded_without_changing_the_base(tiny_model, tmp_path):
    """`eval` and `kl` compare a run with the adapter that it continued."""
    folder = adapter(tiny_model, tmp_path / "a", lora(init_lora_weights="pissa"))
    model = continued(tiny_model, folder).eval()
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        frozen_copy.load(model, folder)
        assert torch.equal(model(input_ids=ids).logits, expected)
        model.set_adapter("ref")
        assert torch.equal(model(input_ids=ids).logits, expected)


def test_trl_still_adds_the_copy_by_a_call_that_is_replaced(tiny_model, tmp_path):
    model = continued(tiny_model, adapter(tiny_model, tmp_path / "a", lora()))
    calls = []

    def add(original, copied):
        calls.append(copied)
        original(copied)

    intercept(frozen_copy, "add", add)
    try:
        trainer(tiny_model, tmp_path, model)
    finally:
        frozen_copy.add = frozen_copy.add.args[0]
    assert calls == [model] and "add_adapter" not in vars(model)
