"""Settings whose effect would be wrong or none are refused; those that are unusual and right still train."""

import pytest
import torch
from accelerate import ParallelismConfig
from datasets import Dataset
from peft import IA3Config, PromptTuningConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, lora, weights
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)


def paired(tiny_model, tmp_path, *, examples=None, **changes):
    keywords = {name: changes.pop(name) for name in ("peft_config", "ref_model", "model") if name in changes}
    return PairedPreferenceTrainer(
        model=keywords.pop("model", tiny_model),
        args=PairedPreferenceConfig(**arguments(tmp_path, **changes)),
        train_dataset=examples or Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        **{"peft_config": lora(), **keywords},
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"torch_compile": True}, "torch_compile"),
        ({"torch_compile_backend": "eager"}, "`torch_compile_backend` would have no effect"),
        ({"parallelism_config": ParallelismConfig(cp_size=2)}, "has cp_size 2, which is not supported"),
        ({"optim": "lomo"}, "inside the backward pass"),
        ({"activation_offloading": True}, "activation_offloading"),
        ({"peft_config": lora(bias="all")}, "biases"),
        ({"peft_config": lora(init_lora_weights="pissa")}, "moves part of the weights of the base"),
        ({"loss": "sft", "ld_alpha": 0.5}, "ld_alpha"),
        ({"loss": {"dpo": 1, "sft": 0.2}, "ld_alpha": 0.5}, "sft reads no reference"),
        ({"ld_alpha": 5.0}, "from 0"),
        ({"train_sampling_strategy": "group_by_length"}, "would save nothing more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_would_be_wrong_or_without_effect_is_refused(settings, sentence, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        paired(tiny_model, tmp_path, **settings)


def test_trls_own_configuration_is_refused_by_name(tiny_model):
    with pytest.raises(TypeError, match="takes a PairedPreferenceConfig, not a DPOConfig"):
        PairedPreferenceTrainer(tiny_model, args=DPOConfig(use_cpu=True, bf16=False))


def test_a_configuration_can_be_used_again_after_a_refusal(tiny_model, tmp_path):
    config = PairedPreferenceConfig(**arguments(tmp_path), loss="ipo")
    with pytest.raises(ValueError):
        PairedPreferenceTrainer(tiny_model, args=config, peft_config=lora(bias="all"))
    assert config.loss_type == ["ipo"]
    assert build(PairedPreferenceTrainer, config, tiny_model).loss.name == "ipo"


def test_the_first_step_catches_a_reference_in_another_precision(tiny_model, tmp_path):
    """A loss of .6937 instead of ln 2: less than a thousandth off, and a sign that policy and reference differ."""

    def rounded(original, batch):
        fields = original(batch)
        fields.per_token_logps = fields.per_token_logps.bfloat16().float()
        return fields

    trainer = PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**arguments(tmp_path), reference_cache=False),
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
    )
    intercept(trainer.references, "score", rounded)
    with pytest.raises(RuntimeError, match=r"gives 0\.693147"):
        trainer.train()


def test_another_reference_model_or_noise_is_not_held_against_the_first_step(tiny_model, tmp_path, capsys):
    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    paired(tiny_model, tmp_path, ref_model=other, max_steps=1).train()
    paired(tiny_model, tmp_path, neftune_noise_alpha=5, max_steps=1).train()
    printed = capsys.readouterr().out
    assert "not checked: the reference is a separate model" in printed and "NEFTune noise is on" in printed


def test_lora_dropout_works_when_dropout_is_not_disabled(tiny_model, tmp_path, capsys):
    trainer = paired(tiny_model, tmp_path, peft_config=lora(lora_dropout=0.3), disable_dropout=False)
    trainer.train()
    assert "not checked: dropout" in capsys.readouterr().out


def test_a_stream_that_ends_in_the_middle_of_a_step_leaves_nothing_behind(tiny_model, tmp_path):
    """Ten examples in steps of four: two are left over at each end, and must not weigh on the next step."""

    def run(rows):
        stream = Dataset.from_list(rows).to_iterable_dataset()
        settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 5}
        trainer = paired(tiny_model, tmp_path, examples=stream, learning_rate=0.0, **settings)
        norms = []

        class Record(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
                norms.append(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))

        trainer.add_callback(Record())
        trainer.train()
        return norms

    norms = run(pairs(10))
    assert norms[2] == pytest.approx(norms[0], rel=1e-4)  # the second pass starts with the same four examples


@pytest.mark.parametrize(
    "adapter",
    [
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    ],
    ids=["prompt tuning", "ia3"],
)
def test_other_adapters_train_and_save(adapter, tiny_model, tmp_path):
    trainer = paired(tiny_model, tmp_path, peft_config=adapter, save_strategy="steps", save_steps=3)
    before = weights(trainer)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trainer).items())
    assert (tmp_path / "checkpoint-3" / "adapter_config.json").exists()


def test_prediction_on_a_test_set_gives_the_evaluation_loss(tiny_model, tmp_path):
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path)), tiny_model)
    held_out = trainer._prepare_dataset(
        Dataset.from_list(pairs(6, seed=2)), trainer.processing_class, trainer.args, "eval"
    )
    predicted = trainer.predict(held_out).metrics["test_loss"]
    assert trainer.evaluate(held_out)["eval_loss"] == pytest.approx(predicted, rel=1e-6)


def test_a_collator_of_ones_own_is_used(tiny_model, tmp_path, capsys):
    calls = []

    def collator(examples):
        calls.append(len(examples))
        return DataCollatorForPreference(pad_token_id=0, max_length=24)(examples)

    trainer = PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**arguments(tmp_path, max_steps=1)),
        train_dataset=Dataset.from_list(pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
        data_collator=collator,
    )
    trainer.train()
    assert calls and "packing is off for this model: a data collator was given" in capsys.readouterr().out


def test_the_token_count_goes_on_after_a_resume(tiny_model, tmp_path):
    settings = arguments(tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
    whole = build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings), tiny_model)
    whole.train()
    resumed = build(PairedPreferenceTrainer, PairedPreferenceConfig(**settings), tiny_model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    counts = [log["num_tokens"] for log in whole.state.log_history if "loss" in log]
    assert [log["num_tokens"] for log in resumed.state.log_history if "loss" in log] == counts
    assert counts == sorted(set(counts))


def test_automatic_weights_in_a_mix_are_settled_for_each_part(tiny_model, tmp_path):
    rows = [{"prompt": p["prompt"], "completion": p["chosen"], "label": i % 4 == 0} for i, p in enumerate(pairs(24))]
    config = UnpairedPreferenceConfig(
        **arguments(tmp_path),
        loss={"kto": 1.0, "apo_zero_unpaired": 0.5},
        loss_kwargs={"apo_zero_unpaired": {"desirable_weight": "auto"}},
    )
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=rows)
    assert trainer.loss.hyperparameters["apo_zero_unpaired"]["desirable_weight"] == 3.0
    assert trainer.loss.hyperparameters["kto"]["desirable_weight"] == 1.0
    trainer.train()
