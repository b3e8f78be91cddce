"""`trl-ext merge`: what it leaves and prints for runs of every trainer, and what it says to wrong input."""

import json

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import DPOConfig

from tests.conftest import pairs
from trl_ext import recipe
from trl_ext.cli import main
from trl_ext.export.held_out import completions_of
from trl_ext.methods import METHODS
from trl_ext.runs.load import open_model
from trl_ext.support.sampling import logps

ROWS = pairs(12, seed=3)


@pytest.fixture
def base(tiny_model, tmp_path, monkeypatch):
    """A bfloat16 base in a folder of its own, with its tokenizer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained("base")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained("base")
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return tmp_path / "base"


def run_of(base, auto=AutoModelForCausalLM, lora=(), **settings):
    """What a finished run leaves, with an adapter that is away from its base."""
    directory = base.parent / "runs" / "small"
    torch.manual_seed(0)
    options = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    model = get_peft_model(auto.from_pretrained(base, dtype=torch.float32), LoraConfig(**options | dict(lora)))
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    values = {"model_name_or_path": str(base), "dataset_name": str(base.parent / "pairs.jsonl"), "use_peft": True}
    (base.parent / "small.yaml").write_text(yaml.safe_dump(values | {"load_in_4bit": True} | settings))
    recipe.load(base.parent / "small.yaml").dump(directory / "recipe.resolved.yaml")
    return directory


def merge_as_json(capsys, *words):
    assert main(["merge", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_merged_and_compared(base, tmp_path, capsys):
    run = run_of(base, loss="dpo", eval_strategy="steps", dataset_test_split="train")
    assert main(["merge", str(run), "--output", "out/merged"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "trained → merged",
        "base only, 4-bit → unquantised",
        "rounding only, to bfloat16",
        "vllm serve out/",
    ):
        assert part in printed
    assert "comparing on 24 completions of 12 rows held out" in printed
    card = (tmp_path / "out" / "merged" / "README.md").read_text()
    assert "| trained → merged |" in card and "library_name: transformers" in card
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["merged"]
    assert "quantization_config" not in (tmp_path / "out" / "merged" / "config.json").read_text()

    facts = merge_as_json(capsys, run, "--output", "exact", "--dtype", "float32", "--pairs", "5")
    tokenizer = AutoTokenizer.from_pretrained("exact")
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    completions = completions_of(METHODS["paired"], Dataset.from_list(ROWS[:5]), tokenizer, args)
    merged = AutoModelForCausalLM.from_pretrained("exact")
    assert merged.dtype == torch.float32
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), run)
    after = logps(merged, tokenizer, completions)
    assert (after - logps(unmerged, tokenizer, completions)).abs().max() < 1e-4
    drift = (after - logps(open_model(run).model, tokenizer, completions)).abs().max().item()
    assert facts["fidelity"]["total"]["largest_sequence"] == pytest.approx(drift, rel=1e-3) and drift > 0.01
    assert facts["fidelity"]["rounding"]["largest_sequence"] < 1e-4  # none, in float32
    assert facts["fidelity"]["quantisation"]["kl"] > 1e-5


def test_a_checkpoint_and_a_plain_adapter(base, capsys):
    run = run_of(base, loss="dpo")
    (run / "adapter_config.json").rename(run / "aside")
    checkpoint = run / "checkpoint-8"
    checkpoint.mkdir()
    (run / "aside").rename(checkpoint / "adapter_config.json")
    (run / "adapter_model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    facts = merge_as_json(capsys, checkpoint, "--output", "merged", "--pairs", "3", "--shard_size", "50KB")
    assert facts["fidelity"]["what"] == "6 completions of 3 rows of its training data (it holds no rows out)"
    assert facts["dtype"] == "bfloat16" and len(list((base.parent / "merged").glob("*.safetensors"))) > 1

    plain = checkpoint.rename(base.parent / "plain")
    assert main(["merge", str(plain), "--output", "mine", "--base", "base"]) == 0
    printed = capsys.readouterr().out
    assert "The merged model will not be compared" in printed and "was not written by `trl-ext run`" in printed
    first, second = (AutoModelForCausalLM.from_pretrained(name).state_dict() for name in ("merged", "mine"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert AutoTokenizer.from_pretrained("mine").eos_token == "</s>"  # the base's


def test_runs_of_other_trainers(base, capsys):
    sft = run_of(base, trainer="sft", load_in_4bit=False)
    facts = merge_as_json(capsys, sft, "--output", "sft")
    assert facts["fidelity"]["what"].startswith("12 completions of 12 rows")
    assert facts["fidelity"]["base"] == "float32" and facts["fidelity"]["quantisation"] is None  # on the CPU
    assert 0 < facts["fidelity"]["total"]["kl"] < 1e-3

    ppo = run_of(base, trainer="ppo", reward_funcs="trl_ext.demo.rewards:positivity", max_completion_length=6)
    facts = merge_as_json(capsys, ppo, "--output", "ppo", "--pairs", "4")
    assert facts["fidelity"]["what"].startswith("4 completions sampled for prompts")
    assert 4 <= facts["fidelity"]["tokens"] <= 24


def test_a_reward_model_is_merged_as_a_classifier(base, capsys):
    class OneScore:
        from_pretrained = staticmethod(
            lambda *args, **kwargs: AutoModelForSequenceClassification.from_pretrained(*args, num_labels=1, **kwargs)
        )

    run = run_of(base, OneScore, lora={"task_type": "SEQ_CLS", "modules_to_save": ["score"]}, trainer="reward")
    assert main(["merge", str(run), "--output", "merged"]) == 0
    printed = capsys.readouterr().out
    assert (
        "The merged model will not be compared: a reward model writes no completions." in printed
        and "vllm" not in printed
    )
    model = AutoModelForSequenceClassification.from_pretrained("merged")
    assert model.config.architectures == ["LlamaForSequenceClassification"] and model.config.num_labels == 1


def test_wrong_input(base, capsys, tmp_path):
    run = run_of(base, loss="dpo")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "there").write_text("")
    (tmp_path / "ia3").mkdir()
    weights = (run / "adapter_model.safetensors").read_bytes()
    (tmp_path / "ia3" / "adapter_model.safetensors").write_bytes(weights)
    (tmp_path / "ia3" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "IA3", "base_model_name_or_path": str(base)})
    )
    new = ["--output", "new"]
    for words, message in (
        ([str(run)], "--output"),
        ([str(run), "--output", "full"], "which exists and is not empty"),
        ([str(run), *new, "--dtype", "int8"], "bfloat16"),
        ([str(run), *new, "--pairs", "0"], "a whole number of at least 1. Or skip the comparison with `--no_check`"),
        ([str(run), *new, "--shard_size", "many"], "for instance 5GB"),
        (["nowhere", *new], "nowhere does not exist"),
        ([str(tmp_path / "full"), *new], "holds no adapter (adapter_config.json)"),
        ([str(base), *new], "holds a complete model and no adapter"),
        ([str(tmp_path / "ia3"), *new], "type IA3, but only LoRA can be merged"),
        ([str(run), *new, "--base", "elsewhere"], "The base elsewhere cannot be loaded"),
    ):
        assert main(["merge", *words]) == 2, words
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_merge_needs_no_data(base, capsys, tmp_path):
    run = run_of(base, loss="dpo")
    (tmp_path / "pairs.jsonl").unlink()
    assert main(["merge", str(run), "--output", "new"]) == 0
    assert (
        "The merged model will not be compared: " in (printed := capsys.readouterr().out) and "no such file" in printed
    )
    assert (tmp_path / "new" / "model.safetensors").exists()


def test_a_base_that_is_stored_quantised(base, capsys):
    run = run_of(base, loss="dpo")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    for card, remedy in (
        ("", "Neither the base's config.json nor its model card says"),
        ("---\nbase_model:\n- maker/whole\n---\n", "`--base maker/whole`"),
    ):
        (base / "README.md").write_text(card)
        assert main(["merge", str(run), "--output", "new"]) == 2
        said = capsys.readouterr().err
        assert "is stored quantised (bitsandbytes, 4 bits)" in said and remedy in said
