"""The implicit reference: it never moves, costs nothing where it is not read, and is checked at step 0."""

import bitsandbytes as bnb
import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, lora, nf4, weights
from trl_ext import losses
from trl_ext.methods import METHODS
from trl_ext.reference.frozen_copy import policy_is_reference
from trl_ext.reference.implicit import implicit_reference
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.common.step_zero import WrongInitialLossError


def paired(tiny_model, tmp_path, *, fresh=True, config=None, **kwargs):
    """A trainer whose adapter is as PEFT initialises it (B = 0) if `fresh`."""
    trainer = PairedPreferenceTrainer(
        model=kwargs.pop("model", tiny_model),
        args=PairedPreferenceConfig(**arguments(tmp_path, **(config or {}))),
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        **{"peft_config": lora(), **kwargs},
    )
    return trainer


def dequantised(model) -> dict[str, torch.Tensor]:
    return {
        name: bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).clone()
        for name, module in model.named_modules()
        if isinstance(module, bnb.nn.Linear4bit)
    }


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("cls", [PairedPreferenceTrainer, UnpairedPreferenceTrainer])
def test_the_4_bit_base_is_bit_identical_after_training(cls, gradient_checkpointing, tiny_model, tmp_path):
    config_class = PairedPreferenceConfig if cls is PairedPreferenceTrainer else UnpairedPreferenceConfig
    config = config_class(
        **arguments(tmp_path, learning_rate=0.01, optim="adamw_torch", gradient_checkpointing=gradient_checkpointing)
    )
    trainer = build(cls, config, tiny_model, quantization_config=nf4())
    base, adapter = dequantised(trainer.model), weights(trainer)
    assert len(base) == 14  # seven projections in each of two layers
    examples = list(trainer.train_dataset)
    row = examples[:1]
    trainer.references.open()
    trainer.rows.prepare(examples)  # so that both measurements below take the same path

    def reference_logps():
        if cls is PairedPreferenceTrainer:
            return torch.cat(trainer.row_objective.reference_logps(trainer.rows.collate(row)))
        return trainer.row_objective.reference_logps(trainer.rows.collate(row))

    before = reference_logps()
    trainer.train()
    assert any(not torch.equal(adapter[name], after) for name, after in weights(trainer).items())
    after = dequantised(trainer.model)
    assert all(torch.equal(base[name], after[name]) for name in base)
    assert torch.equal(reference_logps(), before)


def test_gradients_still_reach_every_4_bit_layer_after_evaluation(tiny_model, tmp_path):
    """bitsandbytes 0.50 would repack a 4-bit CPU weight for inference, for good, in evaluation mode."""
    trainer = paired(tiny_model, tmp_path, quantization_config=nf4(), config={"max_steps": 2})
    base = dequantised(trainer.model)
    trainer.evaluate(Dataset.from_list(pairs(4, seed=1)))
    trainer.train()
    assert all(torch.equal(base[name], value) for name, value in dequantised(trainer.model).items())


@pytest.mark.parametrize(("loss", "passes"), [("dpo", 2), ("simpo", 1), ("sft", 1)])
def test_a_loss_that_reads_no_reference_runs_none(loss, passes, tiny_model, tmp_path):
    trainer = paired(tiny_model, tmp_path, config={"loss": loss, "max_steps": 1, "reference_cache": False})
    trainer.rows.prepare(list(trainer.train_dataset))  # the proof runs forwards of its own
    calls = []
    trainer.model.get_base_model().model.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == passes


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("packing", [True, False])
def test_a_second_run_computes_no_reference_value_whatever_its_settings(packing, own_cache, tiny_model, tmp_path):
    """Another loss, beta, learning rate, seed, rank, batch and LD weighting: all read what the first run stored."""
    first = paired(tiny_model, tmp_path, config={"packing": packing}, quantization_config=nf4())
    first.train()
    assert (first.references.cache.hits, first.references.cache.misses) == (0, 48)
    config = {"loss": "ipo", "beta": 0.3, "learning_rate": 1e-4, "seed": 9, "ld_alpha": 0.5}
    config |= {"per_device_train_batch_size": 6, "max_steps": 4, "packing": packing}
    second = paired(tiny_model, tmp_path, config=config, peft_config=lora(r=8), quantization_config=nf4())
    second.references.open()
    second.rows.prepare(list(second.train_dataset))
    calls = []
    second.model.get_base_model().model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    second.train()
    assert (second.references.cache.hits, second.references.cache.misses) == (48, 0)
    assert len(calls) >= 4 and all(calls)  # the policy's forwards and no other
    uncached = paired(
        tiny_model,
        tmp_path,
        config={**config, "reference_cache": False},
        peft_config=lora(r=8),
        quantization_config=nf4(),
    )
    uncached.train()
    for (name, one), other in zip(second.model.named_parameters(), uncached.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name


def test_other_truncation_or_another_base_is_computed_anew(own_cache, tiny_model, tmp_path):
    paired(tiny_model, tmp_path, quantization_config=nf4()).train()
    shorter = paired(tiny_model, tmp_path, config={"max_length": 10}, quantization_config=nf4())
    shorter.train()
    assert shorter.references.cache.misses > 0
    unquantised = paired(tiny_model, tmp_path)
    unquantised.train()
    assert (unquantised.references.cache.hits, unquantised.references.cache.misses) == (0, 48)


def test_a_reference_free_loss_never_opens_the_cache(own_cache, tiny_model, tmp_path):
    trainer = paired(tiny_model, tmp_path, config={"loss": "simpo"})
    trainer.train()
    assert trainer.references.cache is None and not (tmp_path / "cache").exists()


def test_full_fine_tuning_loads_a_second_model_only_for_losses_that_read_it(tiny_model, tmp_path):
    assert paired(tiny_model, tmp_path, peft_config=None, config={"loss": "simpo"}).ref_model is None
    trainer = paired(tiny_model, tmp_path, peft_config=None, config={"loss": "dpo", "max_steps": 1})
    assert trainer.ref_model is not None
    trainer.train()


def known_values():
    """One loss of each kind that a step treats differently. The values of all are those of tests/losses/test_limits.py."""
    kinds = {}
    for name in losses.available():
        loss = losses.get(name)
        if loss.initial_value is not None:
            kinds.setdefault((loss.inputs, loss.coupled, bool(loss.initial_state)), loss)
    return [pytest.param(loss.name, loss.paired, loss.initial_value, id=loss.name) for loss in kinds.values()]


@pytest.mark.parametrize(("name", "is_paired", "value"), known_values())
def test_the_first_step_has_the_known_loss(name, is_paired, value, tiny_model, tmp_path, capsys):
    cls, config_class = METHODS["paired" if is_paired else "unpaired"].classes()
    trainer = cls(
        model=tiny_model,
        args=config_class(**arguments(tmp_path, max_steps=1), loss=name),
        train_dataset=Dataset.from_list(pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
        quantization_config=nf4(),
    )
    trainer.train()
    assert f"= {value:.4f}, the known value at policy = reference: correct" in capsys.readouterr().out


def test_a_wrong_reference_stops_the_run_before_the_first_update(tiny_model, tmp_path):
    def swapped(original, *given):
        chosen, rejected = original(*given)
        return rejected, chosen

    trainer = PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**arguments(tmp_path), beta=0.5),
        train_dataset=Dataset.from_list(pairs(24)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(),
    )
    intercept(trainer.row_objective, "reference_logps", swapped)
    before = weights(trainer)
    with pytest.raises(WrongInitialLossError, match=r"gives 0\.693147"):
        trainer.train()
    assert all(torch.equal(before[name], after) for name, after in weights(trainer).items())


@pytest.mark.parametrize(("name", "beta", "known"), [("dpo", 5.0, "0.6931"), ("kto", 5.0, "0.5000")])
def test_rounding_to_16_bits_stops_no_run(name, beta, known, tiny_model, tmp_path, capsys):
    """Values from the cache, and KTO's, come from other rows than the policy's, which other kernels may have rounded
    otherwise: here every shape of a row has a rounding of its own."""

    def rounded(module, inputs, output):
        seed = torch.Generator().manual_seed(output.numel())
        return output * (1 + 2**-8 * torch.randn(output.shape[-1], generator=seed))

    cls, config_class = METHODS["unpaired" if name == "kto" else "paired"].classes()
    for is_cached in (False, True):
        trainer = cls(
            model=tiny_model,
            args=config_class(
                **arguments(
                    tmp_path, max_steps=1, bf16=True, reference_cache=True, row_tokens=200 if is_cached else 4096
                ),
                loss=name,
                beta=beta,
            ),
            train_dataset=Dataset.from_list(pairs(8)),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            peft_config=lora(),
            quantization_config=nf4(),
        )
        trainer.model.get_base_model().model.layers[1].register_forward_hook(rounded)
        trainer.train()
        assert not {"apart"} & trainer.state.log_history[0].keys()
        said = capsys.readouterr().out
        rounds = is_cached or name == "kto"
        assert f"= {known}{' up to rounding (' if rounds else ''}" in said


def test_an_8_bit_base_rounds_what_its_layers_are_given(tiny_model, tmp_path, capsys):
    """The loss is then near the known value, and the adapter learns."""
    trainer = paired(
        tiny_model,
        tmp_path,
        config={"max_steps": 2, "beta": 5.0},
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    before = weights(trainer)
    trainer.train()
    assert "the known value at policy = reference: correct" in capsys.readouterr().out
    assert all(not torch.equal(before[name], after) for name, after in weights(trainer).items() if "lora_B" in name)


@pytest.fixture
def trained_adapter(tiny_model, tmp_path) -> str:
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path / "first")), tiny_model)
    trainer.save_model(str(tmp_path / "adapter"))
    return str(tmp_path / "adapter")


def test_a_continued_adapter_is_compared_with_its_own_frozen_copy(tiny_model, trained_adapter, tmp_path, capsys):
    base = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=nf4(), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, trained_adapter, is_trainable=True)
    trainer = paired(tiny_model, tmp_path, model=model, peft_config=None, config={"max_steps": 2})
    assert policy_is_reference(trainer.model)
    copy = {n: p.clone() for n, p in trainer.model.named_parameters() if ".ref." in n}
    trainer.train()
    assert "= 0.6931, the known value" in capsys.readouterr().out
    assert copy and all(torch.equal(p, copy[n]) for n, p in trainer.model.named_parameters() if ".ref." in n)
    assert not policy_is_reference(trainer.model)
    trainer.save_model(str(tmp_path / "second"))
    assert not (tmp_path / "second" / "ref").exists()


def test_a_saved_adapter_loads_in_plain_peft_with_the_same_log_probabilities(tiny_model, tmp_path):
    trainer = build(PairedPreferenceTrainer, PairedPreferenceConfig(**arguments(tmp_path)), tiny_model)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    fresh = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(tmp_path / "saved"))
    ids = torch.tensor([[2, 40, 50, 60, 70, 3]])
    with torch.no_grad():
        trainer.model.eval()
        assert torch.allclose(fresh(ids).logits, trainer.model(ids).logits, atol=1e-4)


def test_the_reference_context_restores_mode_and_trainable_weights(tiny_model):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora())
    model.train()
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    with implicit_reference(model):
        assert not model.training and not torch.is_grad_enabled()
    assert model.training
    assert [n for n, p in model.named_parameters() if p.requires_grad] == trainable
