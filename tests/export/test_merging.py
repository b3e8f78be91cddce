"""Merged folders against PEFT on the unmerged base, and against W + s·BA by hand."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Qwen3MoeConfig,
)

from tests import finished_runs
from tests.export.helpers import SIZES, logits, save_adapter, save_base
from trl_ext import demo
from trl_ext.export import merging, source
from trl_ext.export.gguf import turns
from trl_ext.support.errors import UserError

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LLAMA = LlamaConfig(**SIZES)
TIED = LlamaConfig(**SIZES, tie_word_embeddings=True)
GPT2 = GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=3)
MIXTRAL = MixtralConfig(**SIZES, num_local_experts=4)
QWEN3_MOE = Qwen3MoeConfig(
    **SIZES, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2, head_dim=8, decoder_sparse_step=1
)

CASES = {
    "all linear layers": (LLAMA, {}),
    "tied embeddings": (TIED, {}),
    "rsLoRA, ranks and scales of its own": (
        LLAMA,
        {"use_rslora": True, "rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    ),
    "DoRA": (LLAMA, {"use_dora": True}),
    "bias of B": (
        LlamaConfig(**SIZES, attention_bias=True),
        {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    ),
    "trained biases": (LlamaConfig(**SIZES, attention_bias=True), {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "embeddings": (LLAMA, {"target_modules": ["embed_tokens", "q_proj"]}),
    "embeddings, tied": (TIED, {"target_modules": ["embed_tokens", "q_proj"]}),
    "head, tied": (TIED, {"target_modules": ["lm_head", "q_proj"]}),
    "embeddings saved whole, tied": (TIED, {"modules_to_save": ["embed_tokens"]}),
    "norms and head saved whole": (LLAMA, {"modules_to_save": ["norm", "lm_head"]}),
    "trained tokens": (LLAMA, {"trainable_token_indices": [5, 11, 12]}),
    "Conv1D": (GPT2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "mixture, attention alone": (MIXTRAL, {"target_modules": ["q_proj", "o_proj"]}),
    "mixture, experts": (MIXTRAL, {"target_parameters": EXPERTS}),
    "another mixture, experts": (QWEN3_MOE, {"target_modules": ["v_proj"], "target_parameters": EXPERTS}),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize("case", CASES)
def test_a_merged_folder_computes_what_peft_computes_on_the_base(case, tmp_path, tokenizer):
    config, lora = CASES[case]
    base = save_base(config, tmp_path / "base")
    before = _digest(base)
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    with unmerged.disable_adapter():
        alone = logits(unmerged)
    expected = logits(unmerged)
    assert (expected - alone).abs().max() > 0.1  # the adapter does something

    for dtype, tolerance in ((torch.float32, 1e-5), (None, 0.15)):
        folder = tmp_path / f"merged {dtype}"
        merged = merging.merge(source.find(adapter), dtype)
        merging.save(merged, tokenizer, folder, "1GB")
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        scale = expected.std()
        assert (logits(loaded) - expected).abs().max() < tolerance * max(scale, 1)
        assert AutoModelForCausalLM.from_pretrained(folder).dtype == (dtype or torch.bfloat16)  # the base's own
        assert not hasattr(loaded.config, "quantization_config")
    assert _digest(base) == before


def test_one_rounding_after_a_sum_in_float32(tmp_path):
    base = save_base(LLAMA, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    weights, parts = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    merged = merging.merge(source.find(adapter)).state_dict()
    for name, weight in weights.items():
        a, b = (parts.get(f"base_model.model.{name.replace('weight', f'lora_{x}.weight')}") for x in "AB")
        if a is None:
            assert torch.equal(merged[name], weight)
            continue
        assert torch.equal(merged[name], (weight.float() + 8 / 4 * (b @ a)).bfloat16())
    assert merging.merge(source.find(adapter), torch.float16).lm_head.weight.dtype == torch.float16


def test_what_a_model_computes_in_float32_is_not_rounded(tmp_path, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", {"input_layernorm"})
    base = save_base(LLAMA, tmp_path / "base", torch.float32)
    merged = merging.merge(source.find(save_adapter(base, tmp_path / "adapter")), torch.bfloat16)
    kept = {name for name, parameter in merged.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {f"model.layers.{i}.input_layernorm.weight" for i in (0, 1)}


def test_a_reward_model_becomes_a_classifier_with_its_head(tmp_path, tokenizer):
    base = save_base(LLAMA, tmp_path / "base")
    auto = AutoModelForSequenceClassification

    class OneScore:
        from_pretrained = staticmethod(lambda *args, **kwargs: auto.from_pretrained(*args, num_labels=1, **kwargs))

    adapter = save_adapter(base, tmp_path / "adapter", OneScore, task_type="SEQ_CLS", modules_to_save=["score"])
    expected = logits(PeftModel.from_pretrained(OneScore.from_pretrained(base, dtype=torch.float32), adapter))
    merging.save(merging.merge(source.find(adapter), torch.float32), tokenizer, tmp_path / "merged", "1GB")
    loaded = auto.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert loaded.config.num_labels == 1 and loaded.config.pad_token_id == tokenizer.pad_token_id
    assert (logits(loaded) - expected).abs().max() < 1e-5


def test_shards_are_no_larger_than_asked(tmp_path, tokenizer):
    base = save_base(LLAMA, tmp_path / "base")
    merged = merging.merge(source.find(save_adapter(base, tmp_path / "adapter")))
    expected = logits(merged)
    merging.save(merged, tokenizer, tmp_path / "merged", "20KB")
    shards = list((tmp_path / "merged").glob("model-*.safetensors"))
    assert len(shards) > 2 and (tmp_path / "merged" / "model.safetensors.index.json").exists()
    assert sum(sum(t.nbytes for t in load_file(shard).values()) <= 20_000 for shard in shards) == len(shards)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected)


def test_merged_weights_take_the_place_of_the_mapped_ones(tmp_path, monkeypatch):
    """So there is no second copy of the model in memory."""
    base = save_base(LLAMA, tmp_path / "base")
    places, put_on = {}, merging.put_on

    def recorded(model, found):
        places.update({name: parameter.data_ptr() for name, parameter in model.named_parameters()})
        return put_on(model, found)

    monkeypatch.setattr(merging, "put_on", recorded)
    merged = merging.merge(source.find(save_adapter(base, tmp_path / "adapter")))
    assert {name: parameter.data_ptr() for name, parameter in merged.named_parameters()} == places
    assert merging.bytes_of(merged) == pytest.approx((base / "model.safetensors").stat().st_size, rel=0.1)


def test_adapters_that_do_not_fit(tmp_path):
    base = save_base(LLAMA, tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    wider = save_base(LlamaConfig(**{**SIZES, "hidden_size": 64}), tmp_path / "wider")
    deeper = save_base(LlamaConfig(**{**SIZES, "num_hidden_layers": 3}), tmp_path / "deeper")
    shallower = save_base(LlamaConfig(**{**SIZES, "num_hidden_layers": 1}), tmp_path / "shallower")
    for other, message in ((wider, "size mismatch"), (deeper, "layers.2"), (shallower, "layers.1")):
        with pytest.raises(UserError, match=f"does not fit .*{message}"):
            merging.merge(source.find(adapter, str(other)))


def test_weights_that_leave_the_range_of_float16(tmp_path):
    base = save_base(LLAMA, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.norm.weight.data[3] = 1e6
    model.save_pretrained(base)
    found = source.find(save_adapter(base, tmp_path / "adapter"))
    with pytest.raises(UserError, match=r"model\.norm\.weight holds infinities or NaN in float16"):
        merging.merge(found, torch.float16)


def test_nothing_is_left_of_a_merge_that_fails(tmp_path, monkeypatch):
    output = tmp_path / "new" / "merged"
    with pytest.raises(KeyboardInterrupt), merging.staged(output, 10) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert not any(output.parent.iterdir())
    output.mkdir()  # an empty folder may be there
    with merging.staged(output, 10) as folder:
        (folder / "whole").write_text("")
        assert not any(output.iterdir())
    assert [path.relative_to(output.parent).as_posix() for path in output.parent.rglob("*")] == [
        "merged",
        "merged/whole",
    ]

    monkeypatch.setattr(merging.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 10**9))
    with (
        pytest.raises(UserError, match=r"takes 16\.1 GB, but .* has only 3 GB free"),
        merging.staged(output, 16 * 10**9),
    ):
        pass


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_programs_that_serve_it_make_the_same_tokens_and_stop_at_the_same_ones(tmp_path):
    """Tokenizer, chat template and generation configuration of the base, from the merged folder as any program loads them."""
    base = tmp_path / "base"
    shutil.copytree(demo.MODEL, base)
    GenerationConfig(eos_token_id=[1, 3], do_sample=True, temperature=0.6, top_p=0.95).save_pretrained(base)
    run = finished_runs.leave(tmp_path / "run", str(base))
    found = source.find(run)
    merging.save(merging.merge(found), merging.processor_of(found), tmp_path / "merged", "5GB")
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (base, tmp_path / "merged"))
    for messages in turns.probes(allows_system=True):
        given = {"add_generation_prompt": True, "return_dict": False}
        assert after.apply_chat_template(messages, **given) == before.apply_chat_template(messages, **given)
    assert after("The hotel was lovely.")["input_ids"] == before("The hotel was lovely.")["input_ids"]
    assert after.eos_token_id == before.eos_token_id and after.padding_side == before.padding_side
    config = GenerationConfig.from_pretrained(tmp_path / "merged")
    assert config.eos_token_id == [1, 3]
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.6, 0.95)
