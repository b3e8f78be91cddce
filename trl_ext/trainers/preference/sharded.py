"""Train a LoRA on a base that FSDP2 shards over processes (`trl_ext.support.sharded`).

`Rows.together` makes all processes run the same number of rows, and `Runtime` does what else differs in a step.
"""

from typing import Any

from accelerate import Accelerator
from peft import PeftType
from torch.distributed.fsdp import FSDPModule

from trl_ext.support.errors import UserError
from trl_ext.support.sharded import is_sharded
from trl_ext.trainers.common import adapters, streams

OTHER_WEIGHTS = ("modules_to_save", "target_parameters", "trainable_token_indices", "use_dora")
"""Settings of a LoRA that train weights besides the low-rank matrices of linear layers."""


def refuse(model: Any, given: dict[str, Any], *, has_images: bool) -> None:
    """ValueError for arguments that cannot be trained with FSDP. Settings are judged by `trl_ext.checks.sharding`.

    Args:
        model: The policy, or its path.
        given: The trainer's other arguments.
        has_images: The training data has images.
    """
    trained = adapters.in_training(model, given.get("peft_config"))
    if not trained or given.get("ref_model") is not None:
        raise ValueError(
            "With FSDP an adapter is trained, and the base without it is the reference. Give `peft_config`, and no `ref_model`."
        )
    if streams.any_streamed(given.get("train_dataset"), given.get("eval_dataset")):
        raise ValueError(
            "With FSDP all processes run the same number of steps, and the length of a streamed dataset is not known. Load the "
            "data without streaming."
        )
    if has_images:
        raise ValueError("FSDP is not supported for data with images. Train on one GPU, or with `--multi_gpu`.")
    for config in trained:
        others = [name for name in OTHER_WEIGHTS if getattr(config, name, None)]
        if config.peft_type != PeftType.LORA or others:
            what = f"the setting `{others[0]}`" if others else f"PEFT's type {config.peft_type.value}"
            raise ValueError(
                f"The adapter has {what}. With FSDP only the matrices of a plain LoRA are trained. Use a plain LoRA, or train "
                "without FSDP."
            )
    loaded = getattr(getattr(model, "config", None), "quantization_config", None)
    quantised = given.get("quantization_config") or loaded
    if quantised is not None and not getattr(
        getattr(quantised, "bnb_4bit_quant_storage", None), "is_floating_point", False
    ):
        raise ValueError(
            "FSDP shards 4-bit weights of bitsandbytes only if they are stored as floating-point numbers, and no other "
            "quantised weights. Set `bnb_4bit_quant_storage` of the quantisation configuration to torch.bfloat16."
        )


def keep_dtypes(accelerator: Accelerator) -> None:
    """Have FSDP gather weights in the dtype they have; autocast decides in which they compute, as on one GPU.

    accelerate's own policy for bf16 would round the model's outputs, the log-probabilities, to bfloat16, and would change the
    bits of 4-bit weights stored in another dtype.
    """
    if is_sharded(accelerator):
        accelerator.state.fsdp_plugin.mixed_precision_policy = None


def refuse_evaluation(trainer: Any) -> None:
    """UserError for an evaluation before training: the model is not sharded yet, and accelerate cannot do it."""
    if is_sharded(trainer.accelerator) and not isinstance(trainer.model, FSDPModule):
        raise UserError(
            "With FSDP the model is sharded when training begins, so it cannot be evaluated before. Evaluate after "
            "`train()`, or set `eval_on_start: true`."
        )
