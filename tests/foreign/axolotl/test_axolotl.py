"""Files of axolotl as recipes. What a key means is stated by hand, from axolotl's builders of trainers and its schema."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import pairs
from tests.foreign.axolotl import keys
from trl_ext import losses, recipe
from trl_ext.cli import main
from trl_ext.drafting.conversion import convert
from trl_ext.drafting.converted import convert_file
from trl_ext.foreign import AXOLOTL, recognise
from trl_ext.foreign.axolotl import entries
from trl_ext.methods import METHODS
from trl_ext.recipe import reader
from trl_ext.recipe.vocabulary import known_keys
from trl_ext.support.errors import UserError

FILE = """
base_model: embedded
sequence_len: 256
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 3
learning_rate: 1e-4
warmup_steps: 0
datasets:
  - path: embedded
output_dir: out
"""


def settings(text: str, base: str = FILE) -> dict:
    """The settings of the recipe for a file: `base` with the keys of `text`."""
    made = convert(reader.parse(base) | reader.parse(text))
    return {key: line.value for key, line in (made.settings | made.defaults).items()}


def left(text: str) -> dict[str, tuple[str, bool]]:
    """What the recipe does not have: why, and whether training differs for the lack of it."""
    return {item.key: (item.why, item.matters) for item in convert(reader.parse(FILE) | reader.parse(text)).left}


def test_every_key_of_the_schema_is_known():
    settings_here = set().union(*(known_keys(kind) for kind in METHODS))
    assert [key for key in (*keys.FILE, *keys.PLUGINS) if key not in AXOLOTL.means and key not in settings_here] == []


def test_every_key_of_a_dataset_is_known():
    known = {*entries.READ_ELSEWHERE, *entries.READ_HERE, *entries.SYNTHETIC, *entries.MEANS}
    assert [key for key in keys.DATASET if key not in known] == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rl: dpo", {"loss": "dpo", "beta": 0.1}),
        ("rl: dpo\nrl_beta: 0.3", {"loss": "dpo", "beta": 0.3}),
        ("rl: dpo\ndpo_beta: 0.3", {"loss": "dpo", "beta": 0.3}),
        ("rl: dpo\nrl_beta: 0.3\ndpo_beta: 0.7", {"loss": "dpo", "beta": 0.3}),
        ("rl: dpo\nrl_beta: 0.3\ntrl: {beta: 0.5}", {"loss": "dpo", "beta": 0.5}),
        ("rl: dpo\ndpo_loss_type: [hinge]", {"loss": "hinge", "beta": 0.1}),
        ("rl: dpo\ndpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [0.8, 0.2]", {"loss": {"dpo": 0.8, "sft": 0.2}}),
        ("rl: dpo\ndpo_label_smoothing: 0.1\ndpo_use_weighting: true", {"label_smoothing": 0.1, "use_weighting": True}),
        ("rl: ipo\ndpo_label_smoothing: 0.1", {"loss": "ipo", "label_smoothing": None}),
        ("rl: kto\nkto_desirable_weight: 0.2", {"loss": "kto", "desirable_weight": 0.2}),
        ("rl: kto\nkto_undesirable_weight: 0.4\nrl_beta: 0.5", {"undesirable_weight": 0.4, "beta": 0.5}),
        ("rl: dpo\nkto_desirable_weight: 0.2", {"loss": "dpo", "desirable_weight": None}),
        ("rl: orpo\norpo_alpha: 0.25", {"loss": "orpo", "beta": 0.25}),
        ("rl: simpo\nsimpo_gamma: 0.3", {"loss": {"simpo": 1, "sft": 1.0}, "gamma": 0.3, "beta": 0.1}),
        ("rl: simpo\nsimpo_gamma: 0.3\ncpo_alpha: 0", {"loss": "simpo", "gamma": 0.3}),
        ("rl: simpo\nsimpo_gamma: 0.3\ncpo_alpha: 0.05\nrl_beta: 2", {"loss": {"simpo": 1, "sft": 0.05}, "beta": 2}),
        ("reward_model: true\ncenter_rewards_coefficient: 0.01", {"trainer": "reward", "center_rewards_coefficient": 0.01}),
        ("rl:", {"trainer": "sft", "loss": None, "beta": None}),
    ],
)  # fmt: skip
def test_what_is_trained(text, wanted):
    found = settings(text)
    assert {key: found.get(key) for key in wanted} == wanted


def test_simpo_is_the_loss_of_cpo():
    """TRL's CPO with `loss_type: simpo`: −log σ(β(d − γ/β)) + α·NLL, by hand for one pair of known lengths."""
    found = settings("rl: simpo\nrl_beta: 2.5\nsimpo_gamma: 0.75\ncpo_alpha: 0.4")
    loss = losses.get(found["loss"], beta=found["beta"], gamma=found["gamma"])
    given = {"chosen_logps": -12.0, "rejected_logps": -30.0, "chosen_lens": 8.0, "rejected_lens": 12.0}
    value = loss(**{key: torch.tensor([number]) for key, number in given.items()}).losses
    d = -12 / 8 + 30 / 12
    wanted = math.log1p(math.exp(-2.5 * (d - 0.75 / 2.5))) + 0.4 * 12 / 8
    assert value.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("adapter:\nload_in_4bit: false\nlora_r: 8", {"use_peft": None, "load_in_4bit": None, "lora_r": None}),
        ("adapter: lora\nlora_r: 8", {"use_peft": True, "load_in_4bit": None, "lora_r": 8, "lora_dropout": 0.0}),
        ("adapter: lora\nload_in_4bit: true", {"use_peft": True, "load_in_4bit": None}),  # axolotl's loader asks for qlora
        ("adapter: lora\nlora_dropout:", {"use_peft": True, "lora_dropout": 0.0}),
        ("adapter: lora\nload_in_8bit: true", {"use_peft": True, "load_in_8bit": True}),
        ("adapter:\nload_in_4bit: true", {"use_peft": None, "load_in_4bit": None}),  # which axolotl refuses
        ("adapter: qlora\nload_in_4bit: true", {"load_in_4bit": True, "use_bnb_nested_quant": True}),
        (
            "adapter: qlora\nload_in_4bit: true\nbnb_config_kwargs: {bnb_4bit_use_double_quant: false}",
            {"load_in_4bit": True, "use_bnb_nested_quant": False},
        ),
        ("adapter: lora\nlora_target_linear: true", {"lora_target_modules": "all-linear"}),
        ("adapter: lora\nlora_target_linear: true\nlora_target_modules: [q_proj]", {"lora_target_modules": "all-linear"}),
        ("adapter: lora\nlora_target_modules: [q_proj, lm_head]", {"lora_target_modules": ["q_proj"]}),
        ("adapter: lora\npeft_use_dora: true\npeft_use_rslora: true", {"use_dora": True, "use_rslora": True}),
        (
            "adapter: lora\nlora_r: 8\nlora_model_dir: runs/x",
            {"model_name_or_path": "runs/x", "lora_r": None, "lora_dropout": None, "use_peft": None},
        ),
    ],
)  # fmt: skip
def test_adapters(text, wanted):
    found = settings(f"rl: dpo\n{text}")
    assert {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("{path: a/b}", {"dataset_name": "a/b", "apply_chat_template": False}),
        ("{path: a/b, type: chatml.intel, split: 'train[:9]'}", {"dataset_train_split": "train[:9]", "apply_chat_template": None}),
        ("{path: a/b, name: main, revision: v1, type: llama3.ultra}", {"dataset_config": "main", "dataset_revision": "v1"}),
        ("{path: a/b, type: chat_template.default, field_messages: talk, field_chosen: good, field_rejected: rejected}",
         {"dataset_columns": {"prompt": "talk", "chosen": "good"}}),
        ("{path: a/b, type: chat_template.default}", {"dataset_columns": {"prompt": "messages"}}),
        ("{path: a/b, type: {field_prompt: q, field_chosen: c, field_rejected: r, prompt_format: 'Q: {prompt}'}}",
         {"dataset_columns": {"prompt": "q", "chosen": "c", "rejected": "r"}, "apply_chat_template": None}),
        ("{path: a/b, type: {field_prompt: q}}", {"dataset_columns": {"prompt": "q"}, "apply_chat_template": False}),
        ("{path: json, data_files: rows.jsonl}", {"dataset_name": "rows.jsonl"}),
        ("{path: a/b, data_files: [x.json, y.json]}", {"datasets": [{"path": "a/b", "data_files": ["x.json", "y.json"]}]}),
    ],
)  # fmt: skip
def test_preference_data(entry, wanted):
    found = settings(f"rl: dpo\ndatasets: [{entry}]")
    assert {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("datasets: [{path: a/b, type: alpaca}]", {"completion_only_loss": None, "assistant_only_loss": None}),
        ("datasets: [{path: a/b, type: alpaca}]\ntrain_on_inputs: true", {"completion_only_loss": False}),
        ("datasets: [{path: a/b, type: chat_template}]", {"assistant_only_loss": True}),
        ("datasets: [{path: a/b, type: chat_template, field_messages: turns}]", {"dataset_columns": {"messages": "turns"}}),
        ("datasets: [{path: a/b, type: chat_template}]\ntrain_on_inputs: true", {"assistant_only_loss": None}),
        ("datasets: [{path: a/b, type: completion, field: body}]", {"dataset_columns": {"text": "body"}}),
        ("datasets: [{path: a/b, type: alpaca}, {path: c/d, split: dev, type: alpaca}]",
         {"datasets": [{"path": "a/b"}, {"path": "c/d", "split": "dev"}]}),
        ("sample_packing: true\nval_set_size: 0.1\neval_sample_packing: false", {"packing": True, "eval_packing": False}),
        ("datasets: [{path: a/b, type: alpaca}]\ntest_datasets: [{path: a/b, split: test, type: alpaca}]\neval_steps: 10",
         {"dataset_test_split": "test", "eval_strategy": "steps", "eval_steps": 10}),
    ],
)  # fmt: skip
def test_demonstrations(text, wanted):
    found = settings(text)
    assert found["trainer"] == "sft" and {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {"eval_strategy": None, "save_strategy": "epoch", "save_total_limit": 4, "num_train_epochs": 3}),
        ("val_set_size: 0.1\nevals_per_epoch: 4", {"eval_size": 0.1, "eval_strategy": "steps", "eval_steps": 0.083333}),
        ("val_set_size: 0.1\nevals_per_epoch: 1", {"eval_strategy": "epoch"}),
        ("evals_per_epoch: 4", {"eval_strategy": None, "eval_steps": None}),  # no rows to evaluate on
        ("saves_per_epoch: 2", {"save_strategy": "steps", "save_steps": 0.166666}),
        ("save_steps: 50\nsave_total_limit: 2", {"save_strategy": "steps", "save_steps": 50, "save_total_limit": 2}),
        ("warmup_steps:\nwarmup_ratio: 0.1", {"warmup_steps": 0.1}),
        ("warmup_steps: 20\nwarmup_ratio: 0.1", {"warmup_steps": 20}),
        ("warmup_steps:", {"warmup_steps": 0.03}),
        ("lr_scheduler: cosine\ncosine_min_lr_ratio: 0.1",
         {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}),
        ("num_epochs:\nsequence_len:\nsave_total_limit:\nsave_strategy:\nlr_scheduler:",
         {"num_train_epochs": 1.0, "max_length": 512, "save_total_limit": 4, "save_strategy": "epoch",
          "lr_scheduler_type": "cosine"}),
        ("lr_scheduler: rex", {"lr_scheduler_type": "cosine"}),
        ("gradient_accumulation_steps:\nbatch_size: 12", {"gradient_accumulation_steps": 6}),
        ("eval_batch_size: 7", {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 7}),
        ("chat_template_kwargs: {enable_thinking: false}", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("optimizer: muon", {"optim": None}),
        ("optimizer: paged_adamw_8bit", {"optim": "paged_adamw_8bit"}),
        ("bf16: true\nfp16: true", {"dtype": "bfloat16", "bf16": None, "fp16": None}),
        ("bf16: auto\nfp16:\ntf32: true", {"dtype": "bfloat16", "bf16": None, "fp16": None, "tf32": None}),
        ("bf16: false\nfp16: false", {"bf16": False, "dtype": None}),
        ("gradient_checkpointing: offload", {"gradient_checkpointing": True}),
        ("attn_implementation: flash_attention_2", {"attn_implementation": None}),
        ("wandb_project: p\nwandb_entity: e\nwandb_name: n",
         {"report_to": ["wandb"], "env": {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e"}, "run_name": "n"}),
        ("wandb_project:\nwandb_entity: e", {"report_to": None, "env": None}),
        ("hub_model_id: a/b\nhub_strategy: end", {"push_to_hub": True, "hub_model_id": "a/b", "hub_strategy": "end"}),
        ("revision_of_model: v2", {"model_revision": "v2"}),
    ],
)  # fmt: skip
def test_steps_and_reports(text, wanted):
    found = settings(f"rl: dpo\n{text}")
    assert {key: found.get(key) for key in wanted} == wanted


def test_the_lengths_of_steps_are_not_rounded_up():
    """A share that is rounded up would be one step more: 6 evaluations of 600 steps are one in 100 steps."""
    share = settings("rl: dpo\nval_set_size: 0.1\nevals_per_epoch: 2")["eval_steps"]
    assert math.ceil(600 * share) == 100


@pytest.mark.parametrize(
    ("text", "key", "matters"),
    [
        ("eot_tokens: ['<|im_end|>']", "eot_tokens", False),
        ("special_tokens: {pad_token: '<pad>'}", "special_tokens.pad_token", False),
        ("special_tokens: {eos_token: '<|im_end|>'}", "special_tokens.eos_token", True),
        ("tokens: ['<x>']", "tokens", True),
        ("chat_template: llama3", "chat_template", True),
        ("chat_template: tokenizer_default", "chat_template", False),
        ("model_type: LlamaForCausalLM", "model_type", False),
        ("optimizer: muon", "optimizer", True),
        ("liger_rope: true", "liger_rope", False),
        ("deepspeed: zero2.json", "deepspeed", False),
        ("dataset_exact_deduplication: true", "dataset_exact_deduplication", True),
        ("adapter: lora\nloraplus_lr_ratio: 16", "loraplus_lr_ratio", True),
        ("neftune_noise_alpha: 5", "neftune_noise_alpha", False),  # axolotl does not read it with `rl`
        ("plugins: [axolotl.integrations.kd.KDPlugin]", "plugins[0]", True),
        ("datasets: [{path: a/b, type: chat_template.default, roles: {user: [human], assistant: [robot]}}]",
         "datasets[0].roles", True),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_says_whether_training_differs(text, key, matters):
    why, does = left(f"rl: dpo\n{text}")[key]
    assert does is matters and why.strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rl: grpo\ntrl: {num_generations: 4}", "`rl: grpo`: GRPO"),
        ("rl: gdpo", "`rl: gdpo`: GDPO"),
        ("rl: ebft", "`rl: ebft`: EBFT"),
        ("rl: ppo", "`rl: ppo`: axolotl has no such value. It has dpo, ipo, orpo, simpo, kto, grpo, gdpo, ebft"),
        ("process_reward_model: true", "process reward models are not trained here"),
        ("diffusion: {eps: 0.001}", "diffusion"),
        ("plugins: [axolotl.integrations.diffusion.DiffusionPlugin]", "diffusion"),
    ],
)
def test_a_training_that_is_not_here_is_refused(tmp_path, text, words):
    path = tmp_path / "file.yml"
    path.write_text(reader.write(reader.parse(FILE) | reader.parse(text)), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        convert_file(path)
    (problem,) = caught.value.problems
    assert words in problem and "axolotl" in problem


@pytest.mark.parametrize("rl", ["dpo", "ipo", "kto", "orpo", "simpo", "reward", ""])
@pytest.mark.parametrize("adapter", ["", "lora", "qlora"])
def test_what_is_written_is_in_order(tmp_path, rl, adapter):
    bits = {"lora": "load_in_8bit: true", "qlora": "load_in_4bit: true"}.get(adapter, "")
    trained = "reward_model: true" if rl == "reward" else f"rl: {rl}" + ("\nsimpo_gamma: 0.5" if rl == "simpo" else "")
    kind = {"reward": "bradley_terry.chat_template", "": "chat_template"}.get(rl, "chatml.ultra")
    path = tmp_path / "file.yml"
    path.write_text(
        f"{FILE.replace('path: embedded', f'{{path: embedded, type: {kind}}}')}{trained}\nadapter: {adapter}\n{bits}\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\nval_set_size: 0.1\n"
        "evals_per_epoch: 4\nsaves_per_epoch: 1\nbf16: auto\ntf32: true\noptimizer: adamw_torch_fused\nlr_scheduler: cosine\n"
        "gradient_checkpointing: true\nattn_implementation: flash_attention_2\nspecial_tokens: {pad_token: x}\n",
        encoding="utf-8",
    )
    made = convert_file(path)
    assert made.problems == []
    out = tmp_path / "recipe.yaml"
    out.write_text(made.text, encoding="utf-8")
    read = recipe.load(out)
    assert read.values["learning_rate"] == 1e-4 and read.values["max_length"] == 256
    assert bool(read.values.get("use_peft")) is bool(adapter)


@pytest.mark.parametrize(
    ("values", "is_axolotl"),
    [
        ({"base_model": "x", "rl": "dpo"}, True),
        ({"base_model": "x", "adapter": None}, True),
        ({"base_model": "x", "datasets": [{"path": "a/b", "type": "alpaca"}]}, True),
        ({"base_model": "x", "merge_method": "slerp"}, False),
        ({"model_name_or_path": "x", "sequence_len": 512}, False),
        ({"model_name_or_path": "x", "loss": "dpo", "lora_target_linear": True}, False),
    ],
)
def test_recognition(values, is_axolotl):
    assert (recognise(values) is AXOLOTL) is is_axolotl


def test_a_key_of_axolotl_in_a_recipe_is_explained_by_itself():
    """The rest of the file is no file of axolotl, so it does not decide what the key means."""
    (meaning,) = AXOLOTL.read("kto_desirable_weight", 0.5, {"loss": "kto", "kto_desirable_weight": 0.5})
    assert meaning.settings == {"desirable_weight": 0.5}
    (meaning,) = AXOLOTL.read("rl_beta", 0.5, {"rl_beta": 0.5})
    assert meaning.settings == {"beta": 0.5}
    (meaning,) = AXOLOTL.read("lora_target_linear", True, {"use_peft": True, "lora_target_linear": True})
    assert meaning.settings == {"lora_target_modules": "all-linear"}


ODD = (None, True, False, 0, -1, 0.5, "", "x", [], ["a", 1], [{}], [None], {"a": [1]}, [{"path": 1, "type": [2], "data_files": 3}],
       [{"path": "a/b", "type": "chat_template", "roles_to_train": [1, None], "roles": {"user": None}}])  # fmt: skip


@pytest.mark.parametrize("trained", [{"rl": "dpo", "adapter": "qlora"}, {"rl": "simpo"}, {"reward_model": True}, {}])
def test_values_of_any_type_are_read(trained):
    """A file may hold anything; what is wrong with a value is said by the checks of the recipe."""
    base = {"base_model": "x", "sequence_len": 512, **trained}
    usual = AXOLOTL.defaults(base)
    for key in AXOLOTL.means:
        for value in ODD:
            values = base | {key: value}
            defaults = usual if "rl" in trained else AXOLOTL.defaults(values)  # which reads the losses
            for meaning in AXOLOTL.read(key, value, dict(defaults) | values):
                assert meaning.sentence.endswith(".")


@pytest.mark.parametrize("trained", ["", "reward_model: true\ncenter_rewards_coefficient: 0.01\n"])
def test_validate_reads_the_keys_as_what_the_file_trains(tmp_path, trained):
    """Without `trainer`, a recipe trains a preference loss; a file of axolotl says otherwise by other keys."""
    path = tmp_path / "file.yml"
    kind = "bradley_terry.chat_template" if trained else "chat_template"
    path.write_text(
        f"{FILE.replace('path: embedded', f'{{path: a/b, type: {kind}}}')}{trained}tf32: false\nresume_from_checkpoint:\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError) as caught:
        recipe.load(path)
    text = "\n".join(caught.value.problems)
    assert "did you mean" not in text and "trains a preference loss" not in text
    assert "tf32" not in text and "resume_from_checkpoint" not in text  # off here and there
    assert "write `dataset_name: a/b`" in text and ("assistant_only_loss: true" in text) is not bool(trained)


def test_a_converted_file_trains(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in pairs(8)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    Path("file.yml").write_text(
        f"base_model: {tiny_model}\nrl: simpo\nrl_beta: 2\nsimpo_gamma: 0.5\ncpo_alpha: 0.1\n"
        "datasets: [{path: rows.jsonl, ds_type: json, type: chatml.intel}]\nadapter: lora\nlora_r: 4\nlora_alpha: 8\n"
        "lora_target_linear: true\nsequence_len: 64\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\nmax_steps: 2\n"
        "learning_rate: 1e-3\nwarmup_steps: 0\nlr_scheduler: constant\noutput_dir: out\nsave_strategy: no\n",
        encoding="utf-8",
    )
    assert main(["convert", "file.yml", "--output", "recipe.yaml"]) == 0
    assert main(["run", "recipe.yaml"]) == 0
    resolved = reader.read("out/recipe.resolved.yaml").values
    assert resolved["loss"] == {"simpo": 1, "sft": 0.1} and resolved["lora_r"] == 4
    assert all(
        weight.abs().sum() > 0
        for name, weight in load_file("out/adapter_model.safetensors").items()
        if "lora_B" in name
    )
