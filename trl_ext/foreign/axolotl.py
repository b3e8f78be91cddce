"""Give the settings of axolotl."""

from typing import Any

from trl_ext.foreign.common import continued, of, when
from trl_ext.foreign.dialect import Dialect
from trl_ext.foreign.meaning import Meaning


def _orpo_alpha(value: Any) -> Meaning:
    """Axolotl passes it to the beta of TRL's ORPO."""
    return Meaning({"loss": "orpo", "beta": value}, "the weight of ORPO's odds-ratio term is its beta")


def _adapter(kind: Any) -> Meaning:
    return Meaning({"use_peft": True, **({"load_in_4bit": True} if kind == "qlora" else {})})


AXOLOTL = Dialect(
    "axolotl",
    {
        "base_model": "model_name_or_path",
        "rl": "loss",
        "rl_beta": "beta",
        "orpo_alpha": of(_orpo_alpha),
        "sequence_len": "max_length",
        "micro_batch_size": "per_device_train_batch_size",
        "val_set_size": "eval_size",
        "flash_attention": when({"attn_implementation": "flash_attention_2"}),
        # the adapter
        "adapter": of(_adapter),
        "lora_model_dir": of(continued),
        "lora_target_linear": when({"lora_target_modules": "all-linear"}),
        "peft_use_dora": "use_dora",
        "peft_use_rslora": "use_rslora",
        # losses
        "dpo_use_weighting": "use_weighting",
        "kto_desirable_weight": "desirable_weight",
        "kto_undesirable_weight": "undesirable_weight",
    },
)
