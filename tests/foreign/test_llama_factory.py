"""Files of LLaMA-Factory: every key is known, and means what its trainers do with it."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.foreign.llama_factory_arguments import ARGUMENTS, V1_ARGUMENTS
from trl_ext import foreign, losses, recipe
from trl_ext.drafting.conversion import convert
from trl_ext.drafting.converted import convert_file
from trl_ext.methods import METHODS
from trl_ext.recipe import known_keys, reader
from trl_ext.support.errors import UserError

MODEL = "model_name_or_path: embedded\ndataset: embedded\nfinetuning_type: lora\n"
DPO = f"{MODEL}stage: dpo\n"


def settings(text: str) -> dict:
    made = convert(reader.parse(text))
    return {key: line.value for key, line in {**made.settings, **made.defaults}.items()}


def left(text: str) -> dict[str, bool]:
    """Keys without a counterpart, and whether training differs for it."""
    return {entry.key: entry.matters for entry in convert(reader.parse(text)).left}


def valid(text: str, tmp_path, **instead):
    """The recipe that a file means, loaded."""
    path = tmp_path / "recipe.yaml"
    path.write_text(reader.write(settings(text) | {"dataset_name": "embedded"} | instead))
    return recipe.load(path)


@pytest.mark.parametrize(
    ("dialect", "arguments"), [(foreign.LLAMA_FACTORY, ARGUMENTS), (foreign.LLAMA_FACTORY_V1, V1_ARGUMENTS)]
)
def test_every_argument_is_known(dialect, arguments):
    settings_here = {key for kind in METHODS for key in known_keys(kind)}
    assert [name for name in arguments if name not in dialect.means and name not in settings_here] == []


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("sft", {"trainer": "sft"}),
        ("pt", {"trainer": "sft", "packing": True, "packing_strategy": "wrapped"}),
        ("rm", {"trainer": "reward"}),
        ("ppo", {"trainer": "ppo"}),
        ("dpo", {"loss": "dpo"}),
        ("kto", {"loss": "kto"}),
    ],
)
def test_a_stage_is_a_trainer_or_a_loss(stage, trained, tmp_path):
    text = f"{MODEL}stage: {stage}\ncutoff_len: 512\n" + (
        "reward_model: r\nreward_model_type: full\n" if stage == "ppo" else ""
    )
    found = settings(text)
    assert trained.items() <= found.items() and ("loss" in found) == ("loss" in trained)
    instead = {"reward_funcs": ["sentiment"]} if stage == "ppo" else {}
    assert valid(text, tmp_path, **instead).method.name == {"kto": "unpaired", "dpo": "paired"}.get(
        stage, trained.get("trainer")
    )


def test_without_a_stage_it_is_supervised_fine_tuning_or_what_is_asked_for():
    assert settings(MODEL)["trainer"] == "sft"
    made = convert(reader.parse(MODEL), "kto")
    assert made.settings["loss"].value == "kto" and made.defaults["beta"].value == 0.1
    assert "trainer" not in {*made.settings, *made.defaults}


def test_defaults_that_have_another_effect_are_written():
    # transformers' learning rate and LLaMA-Factory's LoRA; TRL's are 1e-6 and rank 16, alpha 32, dropout 0.05, attention only
    expected = {
        "learning_rate": 5e-5, "max_length": 2048, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0,
        "lora_target_modules": "all-linear", "use_peft": True, "beta": 0.1,
    }  # fmt: skip
    assert expected.items() <= settings(DPO).items()
    assert settings(f"{DPO}lora_rank: 32\n")["lora_alpha"] == 64
    assert settings(f"{DPO}lora_rank: 32\nlora_alpha: 5\n")["lora_alpha"] == 5
    full = settings(DPO.replace("lora", "full"))
    assert full["use_peft"] is False and full["bf16"] is False and not any(key.startswith("lora") for key in full)
    assert "bf16" not in settings(DPO.replace("lora", "full") + "pure_bf16: true\n")


PPO = f"{MODEL}stage: ppo\nreward_model: r\nreward_model_type: full\n"


def test_steps_of_ppo_are_rollouts_there_and_updates_here():
    found = settings(
        f"{PPO}max_steps: 10\nsave_steps: 5\nppo_epochs: 3\nppo_buffer_size: 2\ngradient_accumulation_steps: 4\n"
    )
    # 3 epochs over 2 buffers: 6 updates per rollout; a rollout has 2 × 4 micro-batches
    assert (found["max_steps"], found["save_steps"], found["num_iterations"], found["steps_per_generation"]) == (
        60,
        30,
        3,
        8,
    )
    defaults = settings(PPO)
    expected = {
        "num_iterations": 4, "kl_controller": "adaptive", "kl_target": 6.0, "kl_coef": 0.2, "temperature": 0.95, "top_p": 0.7,
        "top_k": 50, "max_completion_length": 1024,
    }  # fmt: skip
    assert expected.items() <= defaults.items() and "max_length" not in defaults
    assert (
        "max_steps" in settings(f"{DPO}max_steps: 10\nppo_epochs: 3\n")
        and settings(f"{DPO}max_steps: 10\n")["max_steps"] == 10
    )


CHOSEN, REJECTED = torch.tensor([-30.0, -8.0]), torch.tensor([-24.0, -20.0])
LENS = torch.tensor([10, 4]), torch.tensor([6, 10])


def test_the_margin_of_simpo_is_the_same_number(tmp_path):
    read = valid(f"{DPO}pref_loss: simpo\npref_beta: 2.0\nsimpo_gamma: 0.6\n", tmp_path)
    ours = losses.get(read.loss, **read.loss_kwargs)(
        chosen_logps=CHOSEN, rejected_logps=REJECTED, chosen_lens=LENS[0], rejected_lens=LENS[1]
    ).losses
    # LLaMA-Factory: −log σ(β(d − γ/β)) with the difference d of mean log-probabilities
    theirs = -logsigmoid(2.0 * (CHOSEN / LENS[0] - REJECTED / LENS[1] - 0.6 / 2.0))
    torch.testing.assert_close(ours, theirs)
    assert settings(f"{DPO}pref_loss: simpo\n")["gamma"] == 0.5


def test_terms_of_the_loss_have_its_weights(tmp_path):
    found = settings(f"{DPO}pref_ftx: 0.3\npref_bco_weight: 0.5\n")
    # (DPO + 0.5·BCO) / 1.5 + 0.3·SFT
    assert found["loss"] == pytest.approx({"dpo": 1 / 1.5, "bco": 0.5 / 1.5, "sft": 0.3}, abs=1e-6)
    assert valid(f"{DPO}pref_ftx: 0.3\npref_bco_weight: 0.5\n", tmp_path).paired
    for name, ours in {"orpo": "orpo", "simpo": "simpo", "ipo": "ipo", "hinge": "hinge", "sigmoid": "dpo"}.items():
        assert settings(f"{DPO}pref_loss: {name}\n")["loss"] == ours
        assert settings(f"{DPO}pref_loss: {name}\npref_ftx: 0.1\n")["loss"] == {ours: 1, "sft": 0.1}
    assert settings(f"{DPO}pref_loss: orpo\npref_bco_weight: 0.5\n")["loss"] == "orpo"  # it reads no reference


def test_kto_pair_is_no_loss():
    made = convert(reader.parse(f"{DPO}pref_loss: kto_pair\n"))
    assert made.settings["loss"].value == "kto" and "no loss kto_pair" in made.settings["loss"].why


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stage: kto\nkto_chosen_weight: 1.3\nkto_rejected_weight: 0.7\n", {"desirable_weight": 1.3, "undesirable_weight": 0.7}),
        ("stage: dpo\ndpo_label_smoothing: 0.1\n", {"label_smoothing": 0.1}),
        ("stage: dpo\nld_alpha: 0.5\n", {"ld_alpha": 0.5}),
        ("lora_target: q_proj, v_proj\n", {"lora_target_modules": ["q_proj", "v_proj"]}),
        ("additional_target: embed_tokens,norm\n", {"lora_modules_to_save": ["embed_tokens", "norm"]}),
        ("quantization_bit: 4\n", {"load_in_4bit": True, "use_bnb_nested_quant": True}),
        ("quantization_bit: 4\ndouble_quantization: false\nquantization_type: fp4\n", {"use_bnb_nested_quant": False, "bnb_4bit_quant_type": "fp4"}),
        ("quantization_bit: 8\n", {"load_in_8bit": True}),
        ("flash_attn: disabled\n", {"attn_implementation": "eager"}),
        ("stage: orpo\norpo_beta: 0.2\n", {"loss": "orpo", "beta": 0.2}),  # of older releases
        ("flash_attn: true\n", {"attn_implementation": "flash_attention_2"}),
        ("stage: ppo\nfinetuning_type: full\nreward_model: r\n", {"use_peft": True, "reward_adapter": "r"}),
        ("lr_scheduler_type: warmup_stable_decay\nmax_steps: 90\nwarmup_ratio: 0.1\n",
         {"lr_scheduler_kwargs": {"num_stable_steps": 27, "num_decay_steps": 54}}),
        ("flash_attn: fa2\n", {"attn_implementation": "flash_attention_2"}),
        ("disable_gradient_checkpointing: true\n", {"gradient_checkpointing": False}),
        ("enable_liger_kernel: true\n", {"use_liger_kernel": True}),
        ("stage: sft\nneat_packing: true\n", {"packing": True, "packing_strategy": "bfd"}),
        ("stage: sft\ntrain_on_prompt: true\n", {"completion_only_loss": False}),
        ("stage: sft\nuse_dft_loss: true\n", {"loss_type": "dft"}),
        ("stage: dpo\ndisable_shuffling: true\n", {"train_sampling_strategy": "sequential"}),
        ("val_size: 0.1\neval_strategy: steps\n", {"eval_size": 0.1, "eval_strategy": "steps"}),
        ("dataset: d\nval_size: 100\nmax_samples: 1000\n", {"eval_size": 100, "dataset_train_split": "train[:1000]"}),
        ("max_samples: 1000\n", {"max_train_samples": 1000}),
        ("enable_thinking: false\n", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("stage: sft\nenable_thinking: true\n", {"chat_template_kwargs": {"enable_thinking": True}}),
        ("moe_aux_loss_coef: 0.01\n", {"router_aux_loss_coef": 0.01}),
        ("use_swanlab: true\nswanlab_project: p\n", {"report_to": "swanlab", "env": {"SWANLAB_PROJECT": "p"}}),
        ("pure_bf16: true\nstage: dpo\n", {"dtype": "bfloat16", "lora_dtype": "bfloat16"}),
        ("adapter_name_or_path: runs/a\n", {"model_name_or_path": "runs/a"}),
        ("finetuning_type: full\nuse_galore: true\ngalore_rank: 64\n",
         {"optim": "galore_adamw", "optim_target_modules": "all-linear", "optim_args": "rank=64,update_proj_gap=200,scale=2.0,proj_type=std"}),
    ],
)  # fmt: skip
def test_a_key_has_another_name(text, expected):
    assert expected.items() <= settings("stage: dpo\n" * ("stage" not in text) + text).items()


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("quantization_bit:\n", "load_in_4bit"),
        ("flash_attn: auto\n", "attn_implementation"),
        ("disable_gradient_checkpointing: false\n", "gradient_checkpointing"),
        ("packing: true\n", "packing"),  # which is another setting of preference losses
        ("temperature: 0.1\ntop_p: 0.9\n", "temperature"),
        ("max_length: 512\n", "max_new_tokens"),  # limits predictions
        ("simpo_gamma: 0.5\n", "gamma"),
        ("kto_chosen_weight: 1.3\n", "desirable_weight"),
        ("adapter_name_or_path: runs/a\nlora_rank: 4\n", "lora_r"),
        ("adapter_name_or_path: runs/a\n", "use_peft"),
        ("finetuning_type: full\nlora_rank: 4\n", "lora_r"),
        ("resume_from_checkpoint: saves/checkpoint-500\n", "resume_from_checkpoint"),
        ("fsdp: [full_shard, auto_wrap]\nfsdp_config: {version: 1}\n", "fsdp"),
        ("deepspeed: ds_z3_config.json\n", "deepspeed"),
    ],
)
def test_a_key_without_effect_there_has_none_here(text, absent):
    found = settings(f"stage: dpo\n{text}")
    assert absent not in found
    assert found.get("max_length") == 2048


@pytest.mark.parametrize(
    "text",
    [
        "loraplus_lr_ratio: 16.0", "pissa_init: true", "use_badam: true", "use_adam_mini: true", "rope_scaling: yarn", "resize_vocab: true",
        "template: vicuna", "image_max_pixels: 9", "ignore_pad_token_for_loss: false", "ref_model: other/model", "ref_model_adapters: a", "create_new_adapter: true\nadapter_name_or_path: a",
        "adapter_name_or_path: a,b", "quantization_bit: 3", "upcast_layernorm: true", "default_system: Hi", "eval_dataset: other", "fp8: true",
        "stage: kto\npref_ftx: 0.1", "stage: dpo\npref_loss: simpo\nld_alpha: 0.5", "stage: sft\nmask_history: true",
        "stage: sft\nuse_asft_loss: true", "stage: ppo\nppo_score_norm: true", "stage: ppo\nreward_model_type: api\nreward_model: http://r",
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_said_to_change_the_training(text):
    text = text if "stage" in text else f"stage: dpo\n{text}"
    key = text.splitlines()[-1].partition(":")[0]
    assert left(f"finetuning_type: lora\n{text}\n")[key] is True


@pytest.mark.parametrize("kind", ["freeze", "oft"])
def test_another_kind_of_tuning_is_not_the_default(kind):
    line = convert(reader.parse(f"{DPO}".replace("lora", kind))).settings["use_peft"]
    assert line.value is True and "a LoRA" in line.why and "trained, not" in line.why


def test_an_adapter_on_the_vision_tower_is_said_to_change_the_training():
    def why(more: str) -> str:
        return convert(reader.parse(f"{DPO}lora_target: all\n{more}")).settings["lora_target_modules"].why

    assert "vision tower" in why("image_max_pixels: 262144\n") and "vision tower" in why("freeze_vision_tower: true\n")
    assert (
        why("") == "" == why("image_max_pixels: 9\nfreeze_vision_tower: false\nfreeze_multi_modal_projector: false\n")
    )


def test_the_reference_is_the_base_itself():
    text = f"{DPO}ref_model: embedded\n"
    assert left(text)["ref_model"] is False
    assert left(f"{DPO}ref_model: embedded\nref_model_adapters: a\n")["ref_model"] is True


@pytest.mark.parametrize(
    "text",
    [
        "model_name_or_path: m\ntemplate: qwen\ninfer_backend: vllm\n",
        "model_name_or_path: m\nexport_dir: merged\nexport_size: 5\n",
        "model: m\npeft_config: {name: lora, export_dir: merged}\n",
    ],
)
def test_files_that_train_nothing_are_no_recipes(text, tmp_path):
    (tmp_path / "chat.yaml").write_text(text)
    from trl_ext.drafting.converted import convert_file

    with pytest.raises(UserError, match="trains nothing"):
        convert_file(tmp_path / "chat.yaml")


ODD = (
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    "a, b",
    "1e400",
    [],
    ["a", 1, None],
    {},
    {"name": "lora", "r": None},
    {"path": 3},
)


@pytest.mark.parametrize(
    "dialect", [foreign.LLAMA_FACTORY, foreign.LLAMA_FACTORY_V1], ids=lambda dialect: dialect.name
)
def test_values_of_any_type_are_read(dialect):
    for key in dialect.means:
        for value in ODD:
            for context in (
                {"stage": "sft"},
                {"stage": "ppo", "finetuning_type": "full"},
                {"model": "m", "train_dataset": value},
            ):
                values = {**context, key: value}
                for meaning in dialect.read(key, value, foreign.complete(values, dialect)):
                    assert all(isinstance(text, str) for text in (meaning.reason, meaning.changes, meaning.advice))


def test_an_odd_value_beside_a_key_does_no_harm():
    keys = (
        "lora_rank",
        "lora_alpha",
        "ppo_epochs",
        "gradient_accumulation_steps",
        "pref_loss",
        "pref_ftx",
        "dataset",
        "eval_dataset",
    )
    more = (
        "adapter_name_or_path",
        "interleave_probs",
        "dataset_dir",
        "galore_target",
        "quantization_bit",
        "max_samples",
        "stage",
    )
    base = {
        "stage": "ppo",
        "use_galore": True,
        "ppo_buffer_size": 2,
        "dataset": "d",
        "mix_strategy": "interleave_under",
    }
    for key in (*keys, *more):
        for value in ODD:
            every = foreign.complete({**base, key: value}, foreign.LLAMA_FACTORY)
            for name, given in every.items():
                foreign.LLAMA_FACTORY.read(name, given, every)


@pytest.mark.parametrize("text", ["stage: dop", "finetuning_type: lroa", "stage: dpo\npref_loss: simo", "stage: 3"])
def test_a_value_that_llama_factory_refuses_is_not_left_out(tmp_path, text):
    """Without it, another training would be written: all weights in place of an adapter, DPO in place of SimPO."""
    path = tmp_path / "theirs.yaml"
    path.write_text(f"model_name_or_path: a/b\ntemplate: x\ncutoff_len: 8\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"LLaMA-Factory has no such value\. It has .*\. Correct it\."):
        convert_file(path)
