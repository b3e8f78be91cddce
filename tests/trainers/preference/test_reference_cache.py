"""When reference values are shared through the cache, when not, and how it counts."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, Phi3Config, Phi3ForCausalLM
from trl.trainer.dpo_trainer import DataCollatorForPreference

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, intercept, lora, randomise_lora_b
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))


def train(model, tmp_path, *, examples=None, **settings):
    collator = settings.pop("data_collator", None)
    trainer = PairedPreferenceTrainer(
        model=model,
        args=PairedPreferenceConfig(**arguments(tmp_path, max_steps=1, **settings)),
        train_dataset=Dataset.from_list(examples or pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(model if isinstance(model, str) else model.name_or_path),
        peft_config=lora(target_modules="all-linear"),
        data_collator=collator,
    )
    randomise_lora_b(trainer.model)
    trainer.train()
    return trainer


def margin(trainer) -> float:
    return trainer.state.log_history[0]["rewards/margins"]


def test_another_truncation_side_is_not_mistaken_for_the_same_tokens(tiny_model, tmp_path, capsys):
    settings = {"max_length": 14, "truncation_mode": "keep_end"}
    cold = train(tiny_model, tmp_path, **settings, reference_cache=False)
    train(tiny_model, tmp_path, max_length=14)  # fills the cache
    capsys.readouterr()
    after = train(tiny_model, tmp_path, **settings)
    assert after.references.cache is None and margin(after) == margin(cold)
    assert "reference: not cached: `truncation_mode: keep_end`" in capsys.readouterr().out


def test_what_a_collator_of_ones_own_makes_is_not_left_for_others(tiny_model, tmp_path):
    cold = train(tiny_model, tmp_path, reference_cache=False)
    other = train(tiny_model, tmp_path, data_collator=DataCollatorForPreference(pad_token_id=0, max_length=8))
    assert other.references.cache is None
    plain = train(tiny_model, tmp_path)
    assert margin(plain) == pytest.approx(margin(cold), rel=1e-5)


@pytest.mark.parametrize(("max_length", "is_cached"), [(24, False), (12, True), (None, False)])
def test_rotary_embeddings_that_depend_on_the_row_are_not_cached(max_length, is_cached, tiny_model, tmp_path):
    sizes = AutoConfig.from_pretrained(tiny_model)
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    config = Phi3Config(
        vocab_size=sizes.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        original_max_position_embeddings=12,
        rope_parameters={**rope, "original_max_position_embeddings": 12},
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config)
    model.name_or_path = tiny_model  # where its tokenizer is
    trainer = train(model, tmp_path, max_length=max_length)
    assert (trainer.references.cache is not None) == is_cached
    assert trainer.references.depends_on_row != is_cached  # nor are they computed in other rows than the policy's
    trainer.rows.is_packed = True
    assert trainer.reference_rows.are_used == is_cached


def test_evaluation_in_another_precision_leaves_nothing_behind(tiny_model, tmp_path):
    assert train(tiny_model, tmp_path, bf16_full_eval=True).references.cache is None


def test_precomputed_columns_need_no_cache_but_kto_s_baseline_does(tiny_model, tmp_path):
    assert train(tiny_model, tmp_path, precompute_ref_log_probs=True).references.cache is None
    config = UnpairedPreferenceConfig(**arguments(tmp_path, max_steps=1, precompute_ref_log_probs=True))
    kto = build(UnpairedPreferenceTrainer, config, tiny_model, examples=pairs(8))
    kto.train()
    assert kto.references.cache is not None


@pytest.mark.parametrize("packing", [True, False])
def test_only_what_is_unknown_is_computed(packing, tiny_model, tmp_path):
    examples = pairs(8)
    train(tiny_model, tmp_path, examples=examples[:6], packing=packing)
    cold = train(tiny_model, tmp_path, examples=examples, packing=packing, reference_cache=False)
    seen = []

    def count(original, batch):
        seen.append(batch["packed"].input_ids.numel() if "packed" in batch else batch["input_ids"].numel())
        return original(batch)

    trainer = PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**arguments(tmp_path, max_steps=2, packing=packing)),
        train_dataset=Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(target_modules="all-linear"),
    )
    intercept(trainer.references, "run", count)
    randomise_lora_b(trainer.model)
    trainer.train()
    assert trainer.reference_counts() == (12, 4)  # completions; the second epoch counts no more
    assert margin(trainer) == pytest.approx(margin(cold), rel=1e-4)
    if packing:
        unknown = [trainer.tokens.tree(example) for example in list(trainer.train_dataset)[6:]]
        assert sum(seen) == sum(tree.tokens for tree in unknown)


def test_a_second_trainer_on_the_same_model_finds_the_values(tiny_model, tmp_path):
    first = train(tiny_model, tmp_path)
    assert first.reference_counts() == (0, 16)
    second = PairedPreferenceTrainer(
        model=first.model,
        args=PairedPreferenceConfig(**arguments(tmp_path, max_steps=1, loss="ipo")),
        train_dataset=Dataset.from_list(pairs(8)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    # A continued adapter is another reference; off, it is the same base under the switched attention.
    second.model.delete_adapter("ref")
    second.train()
    assert second.reference_counts() == (16, 0)


def test_an_evaluation_alone_leaves_its_values(tiny_model, tmp_path):
    trainer = PairedPreferenceTrainer(
        model=tiny_model,
        args=PairedPreferenceConfig(**arguments(tmp_path)),
        train_dataset=Dataset.from_list(pairs(8)),
        eval_dataset=Dataset.from_list(pairs(8, seed=5)),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=lora(target_modules="all-linear"),
    )
    trainer.evaluate()
    assert list((tmp_path / "cache").glob("*/*.ref1"))


@pytest.mark.parametrize("given", ["plenty", "0", "-3"])
def test_a_bad_size_limit_is_one_sentence(given, monkeypatch):
    from trl_ext.reference.cache import default_limit
    from trl_ext.support.errors import UserError

    monkeypatch.setenv("TRL_EXT_CACHE_GIB", given)
    with pytest.raises(UserError, match="a number above 0"):
        default_limit()
    monkeypatch.setenv("TRL_EXT_CACHE_GIB", "2.5")
    assert default_limit() == int(2.5 * 2**30)
