"""Recipes of other people: those that work with TRL work here, old ones are told what to write today."""

import re
import warnings

import pytest

from tests.recipe.helpers import write
from trl_ext import foreign, recipe
from trl_ext.methods import METHODS
from trl_ext.recipe import reader, schema
from trl_ext.recipe.vocabulary import known_keys
from trl_ext.support.errors import UserError

# What TRL's guides and examples show, for `trl dpo --config` and `trl kto --config`.
DPO = """\
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
dataset_name: trl-lib/ultrafeedback_binarized
learning_rate: 5e-7
num_train_epochs: 1
per_device_train_batch_size: 2
max_steps: 1000
gradient_accumulation_steps: 8
gradient_checkpointing_kwargs: {use_reentrant: false}
eval_strategy: steps
eval_steps: 50
logging_steps: 0.1
output_dir: Qwen2-0.5B-DPO
remove_unused_columns: false
loss_type: [sigmoid, bco_pair, sft]
loss_weights: [0.8, 0.2, 1.0]
report_to: trackio
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: all-linear
load_in_4bit: true
attn_implementation: kernels-community/flash-attn2
"""
KTO = """\
model_name_or_path: trl-lib/qwen1.5-1.8b-sft
dataset_name: trl-lib/kto-mix-14k
loss_type: kto
per_device_train_batch_size: 8
learning_rate: '5e-7'
lr_scheduler_type: cosine
warmup_steps: 0.1
desirable_weight: 1.33
logging_first_step: true
save_strategy: 'no'
optim: adamw_torch_fused
max_length: 2048
"""
MIXTURE = """\
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
datasets:
  - {path: trl-lib/ultrafeedback_binarized, split: train, columns: [chosen, rejected], fraction: 0.5}
  - {path: trl-lib/tldr-preference, split: 'train[:10%]', fraction: 0.5}
test_split_size: 0.1
streaming: false
env: {TOKENIZERS_PARALLELISM: false, OMP_NUM_THREADS: 4}
bf16: true
"""


@pytest.mark.parametrize(
    ("text", "verb", "config", "loss"),
    [
        (DPO, None, "DPOConfig", {"dpo": 0.8, "bco_pair": 0.2, "sft": 1.0}),
        (KTO, None, "KTOConfig", "kto"),
        (MIXTURE, "dpo", "DPOConfig", "dpo"),
        (MIXTURE, "kto", "KTOConfig", "kto"),
    ],
    ids=["dpo", "kto", "mixture for dpo", "mixture for kto"],
)
def test_what_works_with_trl_means_the_same_here(tmp_path, monkeypatch, text, verb, config, loss):
    import trl

    path = write(tmp_path, "", text)
    for name in ("TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "unset")  # TRL's parser sets them; put them back afterwards
    classes = (trl.ScriptArguments, getattr(trl, config), trl.ModelConfig, trl.DatasetMixtureConfig)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = trl.TrlParser(classes).parse_args_and_config(["--config", str(path), "--use_cpu"])
    read = recipe.load(path, {"trainer": verb} if verb else {})
    assert read.loss == loss
    sections = read.sections()
    ours = sections["training"] | sections["model"] | sections["data"]
    del ours["loss"], ours["loss_kwargs"]
    ours |= {key: value for key, value in read.loss_kwargs.items() if not isinstance(value, dict)}
    for key, value in ours.items():
        theirs = next(getattr(part, key) for part in parsed if hasattr(part, key))
        if key == "datasets":
            assert [{k: getattr(entry, k) for k in given} for entry, given in zip(theirs, value, strict=True)] == value
        else:
            # TRL unwraps a list of one.
            assert theirs in (value, [value]) or [theirs] == value, key


def test_every_loss_of_trl_is_known_by_its_name(tmp_path):
    # TRL lists them in the help of its own setting.
    dpo = re.findall(r"`'(\w+)'`", schema.fields("DPOConfig")["loss_type"].help)
    kto = schema.fields("KTOConfig")["loss_type"].choices
    assert len(dpo) >= 15 and "kto" in kto
    for name in (*dpo, *kto):
        assert recipe.load(write(tmp_path, f"loss_type: {name}\n")).paired == (name in dpo)


HANDBOOK = """\
model_name_or_path: alignment-handbook/zephyr-7b-sft-full
torch_dtype: bfloat16
use_flash_attention_2: true
use_peft: true
load_in_4bit: true
lora_r: 128
lora_alpha: 128
lora_dropout: 0.05
lora_target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]
dataset_mixer:
  HuggingFaceH4/ultrafeedback_binarized: 1.0
dataset_splits:
- train_prefs
- test_prefs
preprocessing_num_workers: 12
bf16: true
beta: 0.01
do_eval: true
evaluation_strategy: steps
eval_steps: 100
gradient_accumulation_steps: 4
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
hub_model_id: zephyr-7b-dpo-qlora
learning_rate: 5.0e-6
log_level: info
logging_steps: 10
lr_scheduler_type: cosine
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: paged_adamw_32bit
output_dir: data/zephyr-7b-dpo-qlora
per_device_train_batch_size: 4
per_device_eval_batch_size: 8
push_to_hub: true
save_strategy: "steps"
save_steps: 100
save_total_limit: 1
seed: 42
warmup_ratio: 0.1
generate_during_eval: false
rpo_alpha: 0.2
"""


def test_following_the_advice_makes_an_old_recipe_work(tmp_path):
    path = write(tmp_path, "", HANDBOOK)
    with pytest.raises(UserError) as caught:
        recipe.load(path)
    values = reader.parse(HANDBOOK)
    for sentence in caught.value.problems:
        old, *advice = re.findall(r"`([^`]+)`", sentence)
        del values[old]
        for line in advice:
            if ": " in line:
                values |= reader.parse(line)
    read = recipe.load(write(tmp_path, "", reader.write(values)))
    assert read.loss == {"dpo": 1.0, "sft": 0.2} and read.loss_kwargs == {"beta": 0.01}
    expected = {
        "dtype": "bfloat16",
        "attn_implementation": "flash_attention_2",
        "dataset_name": "HuggingFaceH4/ultrafeedback_binarized",
        "dataset_train_split": "train_prefs",
        "dataset_test_split": "test_prefs",
        "dataset_num_proc": 12,
        "eval_strategy": "steps",
        "warmup_steps": 0.1,
        "max_length": 1024,
    }
    assert {key: read.values[key] for key in expected} == expected


EXAMPLES = {
    "dataset_mixer": {"a/b": 0.5, "c/d": 1.0},
    "dataset_mixture": {
        "datasets": [{"id": "a/b", "config": "x", "split": "train", "weight": 0.5}],
        "seed": 1,
    },
    "dataset_splits": ["train", "test"],
    "quantization_bit": 4,
    "finetuning_type": "lora",
    "adapter": "qlora",
}


CONTEXT = {"LLaMA-Factory": {"stage": "dpo", "finetuning_type": "lora"}}
"""Keys by which a file is recognised, for programs that have keys in common with others."""


TABLES = [(dialect, key) for dialect in foreign.DIALECTS for key in dialect.means]


@pytest.mark.parametrize(("dialect", "key"), TABLES, ids=[f"{dialect.name} {key}" for dialect, key in TABLES])
def test_every_remedy_names_settings_that_exist(dialect, key):
    if dialect in (
        foreign.OLDER_TRL,
        foreign.TRL_SCRIPTS,
        foreign.PLAIN_WORDS,
    ):  # files of today's TRL hold such keys too
        assert key not in known_keys(), "a setting after all: take it off the list"
    known = {name for kind in METHODS for name in known_keys(kind)}
    value = EXAMPLES.get(key, True)
    means = dialect.read(key, value, {**CONTEXT.get(dialect.name, {}), key: value})
    assert means or key in known  # a setting that means the same here
    for meaning in means:
        assert set(meaning.settings) <= known
        for line in re.findall(r"`(\w+: [^`]+)`", meaning.sentence):
            assert set(reader.parse(line)) <= known, line


OTHER_TRAINERS = [
    # (recipe, the advice in backquotes, settings after following it)
    ("trainer: paired\norpo_alpha: 0.2\n", {"loss": "orpo", "beta": 0.2}),
    ("loss: kto\nkto_chosen_weight: 1.3\n", {"desirable_weight": 1.3}),
    ("loss: kto\nkto_rejected_weight: 0.7\n", {"undesirable_weight": 0.7}),
    ("dpo_ftx: 0.25\n", {"loss": {"dpo": 1, "sft": 0.25}}),
    ("adapter_name_or_path: runs/x\n", {"model_name_or_path": "runs/x"}),
    ("lora_target: all\n", {"lora_target_modules": "all-linear"}),
    ("flash_attn: fa2\n", {"attn_implementation": "flash_attention_2"}),
    ("trainer: ppo\nppo_target: 6.0\n", {"kl_controller": "adaptive", "kl_target": 6.0}),
    ("trainer: ppo\nppo_epochs: 4\n", {"num_iterations": 4}),
]


@pytest.mark.parametrize(("text", "advice"), OTHER_TRAINERS)
def test_settings_of_other_trainers(tmp_path, text, advice):
    text = text.replace("trainer: paired\n", "")
    key = text.splitlines()[-1].partition(":")[0]
    with pytest.raises(UserError) as caught:
        recipe.load(write(tmp_path, text))
    (sentence,) = [problem for problem in caught.value.problems if f"`{key}`" in problem]
    lines = [line for line in re.findall(r"`([^`]+)`", sentence) if ": " in line]
    assert {k: v for line in lines for k, v in reader.parse(line).items()} == advice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("init_lora_weights: pissa\n", "such as PiSSA and LoftQ, change the base's weights, and the base is the reference. Remove it"),
        ("init_lora_weights: true\n", "whose product is zero, so that the policy starts as the base. Remove it"),
        ("max_prompt_length: 512\n", "`max_length` limits prompt and completion together. Remove it"),
        ("trainer: ppo\nmax_prompt_length: 512\n", "prompts are never cut, and `max_completion_length` limits the completions"),
        ("trainer: online\nloss: dpo\nmax_prompt_length: 512\n", "prompts are never cut, and `max_completion_length` limits"),
        ("dpo_ftx: 0.0\n", "no SFT loss is added unless `loss` says so. Remove it"),
        ("kto_ftx: 0.1\n", "the SFT loss reads pairs, so `loss: kto` cannot be mixed with it"),
        ("adapter_name_or_path: a,b\n", "one adapter can be trained on. Merge the others"),
    ],
)  # fmt: skip
def test_settings_of_other_trainers_that_have_no_equal(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        recipe.load(write(tmp_path, text))
    assert words in str(caught.value)


def test_what_the_launcher_of_trl_takes(tmp_path):
    with pytest.raises(UserError, match=r"accelerate launch --multi_gpu --num_processes 4 -m trl_ext run RECIPE"):
        recipe.load(write(tmp_path, "num_processes: 4\n"))
