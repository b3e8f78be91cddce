"""Adapters that PEFT saved, judged by their headers against bases that fit and bases that do not; PEFT itself is the judge."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoHaConfig, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.recipe.helpers import load_from, problem
from trl_ext.build import adapter_fit
from trl_ext.cli import main
from trl_ext.model_files import adapter, fit
from trl_ext.planner import plan

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ROWS = 96
BASES = {
    "same": {},
    "more tokens": {"vocab_size": 104},
    "fewer tokens": {"vocab_size": 90},
    "one layer": {"num_hidden_layers": 1},
    "wider": {"hidden_size": 64},
    "other MLP": {"intermediate_size": 64},
    "fewer heads": {"num_key_value_heads": 2},
}
ADAPTERS = {
    "attention": LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    "every layer": LoraConfig(r=4, target_modules="all-linear"),
    "a pattern": LoraConfig(r=4, target_modules=r".*\.(q|down)_proj"),
    "ranks": LoraConfig(r=4, target_modules=["q_proj", "o_proj"], rank_pattern={"q_proj": 2, r"layers\.1\.self_attn.o_proj": 6}),
    "DoRA": LoraConfig(r=4, target_modules=["q_proj"], use_dora=True),
    "embeddings": LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "saved whole": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"]),
    "tokens": LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3, 95]),
    "IA3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": LoHaConfig(r=2, target_modules=["q_proj"]),
    "norms": LNTuningConfig(target_modules=["input_layernorm"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Every base and, trained on the first, every adapter."""
    home = tmp_path_factory.mktemp("fit")
    for name, changes in BASES.items():
        torch.manual_seed(0)
        shards = "20KB" if name == "same" else "5GB"
        LlamaForCausalLM(LlamaConfig(**SIZES | changes)).save_pretrained(home / name, max_shard_size=shards)
        (home / name / "tokenizer.json").write_text("{}")
    for name, config in ADAPTERS.items():
        config.task_type = "CAUSAL_LM"
        get_peft_model(AutoModelForCausalLM.from_pretrained(home / "same"), config).save_pretrained(home / "on" / name)
    return home


def on(home: Path, base: str, name: str, to: Path, **changes) -> Path:
    """A copy of an adapter that names another base."""
    assert len([*(home / "same").glob("*.safetensors")]) > 1  # a sharded base
    folder = shutil.copytree(home / "on" / name, to / "adapter")
    config = json.loads((folder / adapter.CONFIG).read_text())
    (folder / adapter.CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": str(home / base)} | changes))
    return folder


def peft_loads(folder: Path, base: Path) -> bool:
    """Whether plain PEFT puts every weight in its place, and leaves no place without one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).load_adapter(
                str(folder), "default"
            )
        except (RuntimeError, IndexError):
            return False
    return not found.missing_keys and not found.unexpected_keys


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("base", BASES)
def test_headers_tell_what_peft_would_find(base, name, home, tmp_path):
    folder = on(home, base, name, tmp_path)
    fits = peft_loads(folder, home / base)
    said = fit.problem(folder, home / base)
    if fits or name not in ("IA3", "LoHa", "norms") or base == "one layer":
        assert (said is None) == fits, said
    built = adapter_fit.problem(_on_meta(home / base), str(folder))  # for every kind
    assert (built is None) == fits, built


def _on_meta(base: Path):
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig.from_pretrained(base))


@pytest.mark.parametrize(
    ("base", "name", "said"),
    [
        ("more tokens", "saved whole", "it was trained with 96 embeddings, and the base has 104. Load the base, call "
         "`model.resize_token_embeddings(96)`, save it to a folder with its tokenizer, and"),
        ("fewer tokens", "embeddings", "it was trained with 96 embeddings, and the base has 90."),
        ("fewer tokens", "tokens", "it trains token 95, and the base has 90 embeddings."),
        ("one layer", "attention", "it was trained on model.layers.1.self_attn.q_proj and 1 other module, which the base"),
        ("wider", "attention", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight has shape (4, 32), but "
         "model.layers.0.self_attn.q_proj of the base has shape (64, 64). Set `base_model_name_or_path`"),
    ],
)  # fmt: skip
def test_validate_refuses_in_one_sentence(base, name, said, home, tmp_path):
    folder = on(home, base, name, tmp_path)
    sentence = problem(tmp_path, "", f"model_name_or_path: {folder}\ndataset_name: embedded\n")
    assert sentence.startswith(f"The adapter in {folder} does not fit its base {home / base}: ") and said in sentence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 8}, "adapter_config.json gives model.layers.0.self_attn.q_proj rank 8, but"),
        ({"peft_type": None}, "has no `peft_type`"),
        ({"base_model_name_or_path": None}, "does not name its base model"),
        (
            {"base_model_name_or_path": "/nowhere/base"},
            "was trained on /nowhere/base, but that folder does not exist.",
        ),
        ({"bias": "all"}, "The adapter trains biases (bias='all')"),
        ({"target_modules": ["q_proj", "v_proj", "lm_head"]}, "is an adapter with LoRA on lm_head."),
    ],
)
def test_a_configuration_that_cannot_be(changes, said, home, tmp_path):
    folder = on(home, "same", "attention", tmp_path, **changes)
    assert said in problem(tmp_path, "", f"model_name_or_path: {folder}\ndataset_name: embedded\n")


def test_virtual_tokens_cannot_be_continued(home, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(home / "same")
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path)
    said = problem(tmp_path, "", f"model_name_or_path: {tmp_path}\ndataset_name: embedded\n")
    assert "The adapter is of PEFT's type PROMPT_TUNING. PEFT loads such adapters for inference only" in said


def test_trained_tokens_of_tied_embeddings(home, tmp_path):
    base = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    base.save_pretrained(tmp_path / "tied")
    folder = on(home, "same", "tokens", tmp_path, base_model_name_or_path=str(tmp_path / "tied"))
    said = problem(tmp_path, "", f"model_name_or_path: {folder}\ndataset_name: embedded\n")
    assert "an adapter with trained tokens, and its base uses the embeddings as its head." in said
    # A run also knows it where the base is on the Hub.
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True))
    assert "on the head" in adapter_fit.problem(model, str(folder), reads_head=True)


@pytest.mark.parametrize("added", [0, 8])
def test_a_tokenizer_larger_than_the_embeddings(added, tiny_model, tmp_path, capsys):
    """Of the tiny model, whose tokens all have an embedding, and of one with tokens that were added for training."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = len(tokenizer)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "adapter")
    tokenizer.add_tokens([f"<new{i}>" for i in range(added)])
    if added:
        tokenizer.pad_token = "<new3>"
    tokenizer.save_pretrained(tmp_path / "adapter")
    text = f"model_name_or_path: {tmp_path}/adapter\ndataset_name: embedded\n"
    if not added:
        load_from(tmp_path, text)
        return
    said = problem(tmp_path, "", text)
    assert f"has 1 token beyond the {rows:,} embeddings of the base {tiny_model}, for instance '<new3>'." in said


def test_missing_weights_and_older_files(home, tmp_path, capsys):
    """A plan reads the configuration alone; `validate` and a run need the weights, in PEFT's format or PyTorch's."""
    folder = on(home, "same", "attention", tmp_path)
    recipe = tmp_path / "a.yaml"
    recipe.write_text(f"model_name_or_path: {folder}\ndataset_name: embedded\n")
    (folder / adapter.WEIGHTS).rename(tmp_path / "aside")
    assert main(["validate", str(recipe)]) == 2
    assert f"{folder} holds an adapter_config.json but no adapter_model.safetensors." in capsys.readouterr().err
    assert plan(recipe).trained == 2 * 2 * 4 * (32 + 32)
    from safetensors.torch import load_file

    torch.save(load_file(tmp_path / "aside"), folder / adapter.OLDER_WEIGHTS)
    assert main(["validate", str(recipe)]) == 0
    assert adapter_fit.problem(_on_meta(home / "same"), str(folder)) is None
    assert "size mismatch" in adapter_fit.problem(_on_meta(home / "wider"), str(folder))


def test_weights_that_no_target_names_would_be_left_out(home, tmp_path):
    """PEFT reports neither."""
    folder = on(home, "same", "attention", tmp_path, target_modules=["q_proj"])
    said = adapter_fit.problem(_on_meta(home / "same"), str(folder))
    assert "self_attn.v_proj.lora_A.weight (with 3 other weights) has no place in it." in said
    said = problem(tmp_path, "", f"model_name_or_path: {folder}\ndataset_name: embedded\n")
    assert "it has weights for model.layers.0.self_attn.v_proj, which `target_modules` in its" in said
    shutil.rmtree(folder)
    folder = on(home, "same", "attention", tmp_path, target_modules=["q_proj", "v_proj", "o_proj"])
    said = adapter_fit.problem(_on_meta(home / "same"), str(folder))
    assert "self_attn.o_proj.lora_A.weight (with 3 other weights) is missing in the adapter." in said


def test_validate_describes_the_adapter_that_is_continued(home, tmp_path, capsys):
    folder = on(home, "same", "ranks", tmp_path)
    recipe = tmp_path / "a.yaml"
    settings = "lora_r: 8\nlora_dropout: 0.1\nuse_dora: true\nlora_modules_to_save: [lm_head]\nload_in_4bit: true\n"
    recipe.write_text(f"model_name_or_path: {folder}\ndataset_name: embedded\nloss: dpo\n{settings}")
    assert main(["validate", str(recipe)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "reference a frozen copy of the adapter that training continues from" in printed
    assert f"model {home / 'same'}, 4 bits" in printed
    assert f"adapter the one in {folder} is trained further: LoRA, rank 4 (" in printed
    assert "q_proj 2" in printed
    for key, value, has in (
        ("lora_r", 8, "has 4"),
        ("lora_dropout", 0.1, "has 0.0"),
        ("use_dora", True, "is LoRA without it"),
        ("lora_modules_to_save", "['lm_head']", "is LoRA without it"),
    ):
        assert f"is {value} and has no effect: training continues the adapter in {folder}, which {has}." in printed, (
            key
        )


def test_a_plan_counts_the_ranks_that_were_saved(home, tmp_path):
    folder = on(home, "same", "ranks", tmp_path)
    (tmp_path / "a.yaml").write_text(f"model_name_or_path: {folder}\ndataset_name: embedded\nlora_r: 64\n")
    saved = sum(p.numel() for p in _trained(home, "ranks"))
    assert saved == 2 * 2 * 64 + (4 + 6) * 64  # q_proj of two layers, o_proj of the first and of the second
    assert plan(tmp_path / "a.yaml").trained == saved
    tight = plan(tmp_path / "a.yaml", vram=0.2)
    assert tight.largest_rank is None and not any("lora_r" in flag for flag in tight.flags)


def _trained(home: Path, name: str):
    base = AutoModelForCausalLM.from_pretrained(home / "same")
    return [
        p
        for p in PeftModel.from_pretrained(base, home / "on" / name, is_trainable=True).parameters()
        if p.requires_grad
    ]
