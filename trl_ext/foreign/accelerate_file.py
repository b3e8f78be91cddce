"""Recognise configuration files of accelerate and DeepSpeed, which describe a launch and not a training."""

from trl_ext.foreign.dialect import Dialect, Values

_LAUNCH = "It says how processes are started, not what is trained"


def _is_accelerate(values: Values) -> bool:
    launch = {"compute_environment", "distributed_type", "main_training_function", "num_machines", "machine_rank"}
    return len(launch & set(values)) >= 2 and "model_name_or_path" not in values


def _is_deepspeed(values: Values) -> bool:
    sizes = {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "zero_optimization",
        "zero_allow_untested_optimizer",
    }
    return ("zero_optimization" in values and len(sizes & set(values)) >= 2) or (
        "zero_optimization" in values and not ({"model_name_or_path", "base_model"} & set(values))
    )


ACCELERATE = Dialect(
    "accelerate",
    {},
    _is_accelerate,
    not_a_recipe=f"this is a configuration file of accelerate. {_LAUNCH}. Write a recipe, and launch it with "
    "`accelerate launch --config_file {file} -m trl_ext run RECIPE`.",
)
DEEPSPEED = Dialect(
    "DeepSpeed",
    {},
    _is_deepspeed,
    not_a_recipe=f"this is a configuration file of DeepSpeed. {_LAUNCH}. trl-ext does not train with DeepSpeed. Several GPUs need "
    "no such file: `accelerate launch --multi_gpu --num_processes 2 -m trl_ext run RECIPE`.",
)
