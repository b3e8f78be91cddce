"""Load a recipe with one setting changed, to see whether it is refused, noted or accepted.

Values are the first ones that a user of TRL would write. Settings that are read only beside another one are tried with it.
"""

import functools
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import yaml

from trl_ext.checks import packages
from trl_ext.checks.switches import SWITCHES
from trl_ext.recipe import load, schema
from trl_ext.recipe.vocabulary import known_keys
from trl_ext.rl.policy_gradient import OF_ONE_OBJECTIVE
from trl_ext.support.errors import UserError

BASE: dict[str, Any] = {"model_name_or_path": "org/model", "dataset_name": "org/data"}
OF_METHOD: dict[str, dict[str, Any]] = {
    "paired": {"trainer": "dpo", "use_peft": True},
    "unpaired": {"loss": "kto", "use_peft": True},
    "rloo": {"trainer": "rloo", "use_peft": True, "reward_funcs": ["sentiment"]},
    "grpo": {"trainer": "grpo", "use_peft": True, "reward_funcs": ["sentiment"]},
    "reward": {"trainer": "reward", "use_peft": True},
    "sft": {"trainer": "sft", "use_peft": True},
}
"""The least that a recipe of each kind of training needs."""

PARENTS = {
    "paired": "DPOConfig",
    "unpaired": "KTOConfig",
    "rloo": "trl.RLOOConfig",
    "grpo": "trl.GRPOConfig",
    "reward": "RewardConfig",
    "sft": "SFTConfig",
}
"""TRL's configuration of each kind of training, whose defaults are not tried."""

VALUES: dict[str, Any] = {
    "accelerator_config": {"even_batches": False},
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "adam_beta1": 0.8,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-6,
    "beta": 0.2,
    "chat_template_kwargs": {"enable_thinking": False},
    "cache_implementation": "static",
    "center_rewards_coefficient": 0.01,
    "chat_template_path": str(Path(__file__).parents[1] / "trl_ext" / "demo" / "model" / "chat_template.jinja"),
    "dataloader_multiprocessing_context": "spawn",
    "dataset_kwargs": {"skip_prepare_dataset": False},
    "dataset_text_field": "content",
    "ddp_backend": "gloo",
    "debug": "underflow_overflow",
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "discopop_tau": 0.1,
    "eos_token": "<eos>",
    "eval_steps": 50,
    "f_divergence_type": "js_divergence",
    "fsdp": "full_shard",
    "fsdp_config": {"min_num_params": 2000},
    "generation_kwargs": {"use_cache": True},
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "hub_model_id": "name/model",
    "hub_revision": "v1",
    "hub_token": "hf_x",
    "importance_sampling_level": "sequence",
    "include_for_metrics": ["inputs"],
    "include_num_input_tokens_seen": "all",
    "label_names": ["labels"],
    "label_smoothing": 0.1,
    "label_smoothing_factor": 0.1,
    "ld_alpha": 0.5,
    "learning_rate": 5e-5,
    "generation_batch_size": 16,
    "length_column_name": "tokens",
    "liger_kernel_config": {"rope": False},
    "local_rank": 0,
    "log_completions_hub_repo": "name/completions",
    "log_level": "error",
    "log_level_replica": "error",
    "lora_dropout": 0.1,
    "loss_weights": [1.0],
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "lr_scheduler_type": "cosine",
    "max_completion_length": 128,
    "max_grad_norm": 0.5,
    "max_steps": 10,
    "metric_for_best_model": "loss",
    "min_p": 0.1,
    "model_init_kwargs": {"attention_dropout": 0.0},
    "multi_objective_aggregation": "normalize_then_sum",
    "neftune_noise_alpha": 5.0,
    "num_generations": 4,
    "num_generations_eval": 4,
    "num_train_epochs": 1.0,
    "optim": "adamw_torch",
    "optim_args": "eps=1e-6",
    "optim_target_modules": "all-linear",
    "output_dir": "somewhere",
    "pad_to_multiple_of": 8,
    "pad_token": "<pad>",
    "parallelism_config": {"cp_size": 2},
    "per_device_train_batch_size": 4,
    "precompute_ref_batch_size": 4,
    "project": "mine",
    "ref_model_mixup_alpha": 0.5,
    "ref_model_sync_steps": 64,
    "repetition_penalty": 1.1,
    "report_to": "tensorboard",
    "reward_clip_range": [-1.0, 1.0],
    "reward_weights": [0.5],
    "router_aux_loss_coef": 0.01,
    "run_name": "mine",
    "save_steps": 100,
    "scale_rewards": "none",
    "steps_per_generation": 4,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 0.9,
    "torch_compile_backend": "eager",
    "torch_compile_mode": "default",
    "trackio_bucket_id": "name/bucket",
    "trackio_space_id": "name/space",
    "trackio_static_space_id": "name/space",
    "transformers_continuous_batching_config": {"num_blocks": 64},
    "use_transformers_paged": True,
    "vllm_mode": "server",
    "vllm_model_impl": "transformers",
    "vllm_server_host": "127.0.0.1",
    "vllm_server_base_url": "http://localhost:8000",
    "vllm_structured_outputs_regex": "[a-z]+",
    "vllm_gpu_memory_utilization": 0.5,
    "vllm_importance_sampling_clip_max": 2.0,
    "vllm_importance_sampling_clip_min": 0.5,
    "vllm_importance_sampling_correction": False,
    "vllm_importance_sampling_mode": "token_mask",
    "vllm_importance_sampling_cap": 2.0,
    "vllm_max_model_length": 512,
    "warmup_steps": 10,
    "weight_decay": 0.1,
}
"""Values to try, where neither the choices of a setting nor its kind give one."""

EVALUATION = {"eval_strategy": "steps"}
_BESIDE: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    *((switch.example, switch.keys) for switch in SWITCHES),
    ({**EVALUATION, "eval_steps": 10, "save_steps": 10}, ("load_best_model_at_end",)),
    ({**EVALUATION, "eval_steps": 10, "save_steps": 10, "load_best_model_at_end": True}, ("metric_for_best_model",)),
    ({**EVALUATION, "metric_for_best_model": "loss"}, ("save_strategy",)),
    (EVALUATION, ("batch_eval_metrics", "prediction_loss_only", "include_for_metrics", "do_eval")),
    ({"lr_scheduler_type": "cosine_with_restarts"}, ("lr_scheduler_kwargs",)),
    ({"optim": "galore_adamw"}, ("optim_target_modules",)),
    ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, ("optim_args",)),
    (
        {"dataloader_num_workers": 2},
        (
            "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context",
            "dataloader_in_order",
        ),
    ),
    ({"sync_ref_model": True}, ("ref_model_sync_steps", "ref_model_mixup_alpha")),
    ({"num_iterations": 2}, ("epsilon", "epsilon_high", "delta")),
    *(({"policy_objective": name}, keys) for name, keys in OF_ONE_OBJECTIVE.items()),
    ({"beta": 0.1}, ("use_bias_correction_kl",)),
    ({"loss_type": ["sigmoid"]}, ("loss_weights",)),
    ({"f_divergence_type": "alpha_divergence"}, ("f_alpha_divergence_coef",)),
    ({"loss": "discopop"}, ("discopop_tau",)),
    ({"row_tokens": 2048, "gradient_checkpointing": True}, ("fsdp",)),
    ({"row_tokens": 2048, "gradient_checkpointing": True, "fsdp": "full_shard"}, ("fsdp_config",)),
    ({"torch_compile": True}, ("torch_compile_backend", "torch_compile_mode")),
    ({"train_sampling_strategy": "group_by_length"}, ("length_column_name",)),
)  # fmt: skip
BESIDE = {key: given for given, keys in _BESIDE for key in keys}
"""Settings without which another one is not read."""


class Outcome(NamedTuple):
    """What came of a value: the sentences that refuse it, and the notes."""

    value: Any
    refusals: list[str]
    notes: list[str]


@functools.cache
def outcomes(method: str, key: str) -> list[Outcome]:
    """Load a recipe of a kind of training with each value to try of a setting."""
    return [outcome(method, key, value) for value in values(method, key)]


def outcome(method: str, key: str, value: Any) -> Outcome:
    """Load a recipe with a setting, beside those without which it would not be read."""
    given = {**BASE, **OF_METHOD[method], **beside(method, key), key: value}
    if key == "loss_type":
        given.pop("loss", None)  # another spelling of the same setting
    processes = {"WORLD_SIZE": "2"} if key.startswith("ddp_") else {}
    with tempfile.TemporaryDirectory() as folder, as_if_installed(), mock.patch.dict(os.environ, processes):
        path = Path(folder, "probe.yaml")
        path.write_text(yaml.safe_dump(given), encoding="utf-8")
        try:
            return Outcome(value, [], load(path).notes)
        except UserError as error:
            return Outcome(value, list(error.problems), [])


LOSS_TYPES = {"paired": ["ipo"], "unpaired": "apo_zero_unpaired", "grpo": "dr_grpo"}
"""Values of `loss_type`, each the name of another loss than the base recipe's."""


def beside(method: str, key: str) -> dict[str, Any]:
    """The settings without which a setting is not read, as far as this kind of training has them."""
    given = BESIDE["vllm_"] if key.startswith("vllm_") else BESIDE.get(key, {})
    if key == "length_column_name" and method in ("paired", "unpaired"):
        return {}  # which group nothing by length
    known = known_keys(method)
    return {name: value for name, value in given.items() if name in known}


def values(method: str, key: str) -> list[Any]:
    """Values to try of a setting: all of its other choices, or one other value."""
    if key == "loss_type" and method in LOSS_TYPES:
        return [LOSS_TYPES[method]]
    if key in VALUES:
        return [VALUES[key]]
    field = schema.fields(PARENTS[method]).get(key)
    if field is None:
        return [7]  # not a setting here
    default = None if field.default is schema.MISSING else field.default
    if field.choices:
        return [choice for choice in field.choices if choice != default]
    if "bool" in field.kinds:
        return [not default]
    if field.kinds & {"int", "float"}:
        return [2 * default if default else 4]
    raise LookupError(f"Add a value of {key} to VALUES of docs/probes.py: its annotation is {field.annotation}.")


def as_if_installed() -> Any:
    """Context in which every package counts as installed: a verdict does not depend on the machine."""
    return mock.patch.object(packages, "is_installed", lambda package: True)
