"""Give the settings of LLaMA-Factory."""

from typing import Any

from trl_ext.foreign.common import DEFAULT, REFERENCE, continued, initialisation, of, with_sft
from trl_ext.foreign.dialect import Dialect
from trl_ext.foreign.meaning import Meaning

_ATTENTION = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}


def _attention(kind: Any) -> Meaning:
    return (
        Meaning({"attn_implementation": _ATTENTION[kind]}) if isinstance(kind, str) and kind in _ATTENTION else DEFAULT
    )


def _bits(bits: Any) -> Meaning:
    return Meaning({"load_in_8bit" if str(bits) == "8" else "load_in_4bit": True, "use_peft": True})


def _stage(stage: Any) -> Meaning:
    trainer = {"rm": "reward", "sft": "sft", "ppo": "ppo"}.get(str(stage))
    return Meaning({"trainer": trainer}) if trainer else Meaning(reason="`loss` chooses what is trained")


def _kto_sft(weight: Any) -> Meaning:
    if not weight:
        return Meaning(reason="no SFT loss is added unless `loss` says so")
    return Meaning(
        reason="the SFT loss reads pairs, so `loss: kto` cannot be mixed with it",
        changes="no SFT loss is added to KTO",
    )


LLAMA_FACTORY = Dialect(
    "LLaMA-Factory",
    {
        "stage": of(_stage),
        "finetuning_type": of(lambda kind: Meaning({"use_peft": True}) if kind == "lora" else DEFAULT),
        "template": Meaning(reason="the tokenizer's own chat template is used"),
        "cutoff_len": "max_length",
        "max_samples": "max_train_samples",
        "val_size": "eval_size",
        "flash_attn": of(_attention),
        "quantization_bit": of(_bits),
        # the adapter
        "lora_rank": "lora_r",
        "lora_target": of(lambda value: Meaning({"lora_target_modules": "all-linear" if value == "all" else value})),
        "additional_target": "lora_modules_to_save",
        "adapter_name_or_path": of(continued),
        "create_new_adapter": Meaning(
            reason="an adapter in `model_name_or_path` is trained on, and a base model gets a new one"
        ),
        "pissa_init": of(lambda on: initialisation("pissa" if on else True)),
        "use_unsloth": Meaning(reason="Unsloth is not used"),
        # losses: one beta here, whatever the loss
        **dict.fromkeys(("pref_beta", "dpo_beta", "orpo_beta", "kto_beta", "simpo_beta", "cpo_beta"), "beta"),
        "pref_loss": "loss",
        "dpo_loss": "loss",
        "dpo_label_smoothing": "label_smoothing",
        "pref_ftx": with_sft,
        "dpo_ftx": with_sft,
        "kto_ftx": of(_kto_sft),
        "kto_chosen_weight": "desirable_weight",
        "kto_rejected_weight": "undesirable_weight",
        "ref_model_adapters": REFERENCE,
        "ref_model_quantization_bit": REFERENCE,
        # PPO
        "ppo_epochs": "num_iterations",
        "ppo_target": of(lambda value: Meaning({"kl_controller": "adaptive", "kl_target": value})),
        "ppo_whiten_rewards": Meaning(reason="`normalize_advantages` normalises advantages instead of rewards"),
        "ppo_score_norm": Meaning(
            reason="rewards are not normalised by running statistics; `reward_clip_range` limits them"
        ),
    },
)
