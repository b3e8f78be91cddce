"""Read the optimizers of a LLaMA-Factory file, its trackers, launchers and reports."""

import math
from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.llama_factory.file_values import OFF, lost, names, number, stage
from trl_ext.foreign.meaning import Meaning

ARGUMENTS = {
    "galore": {"rank": 16, "update_interval": 200, "scale": 2.0, "proj_type": "std"},
    "apollo": {"rank": 16, "update_interval": 200, "scale": 32.0, "proj": "random", "proj_type": "std", "scale_type": "channel"},
}  # fmt: skip
"""Arguments of low-rank optimizers and LLaMA-Factory's defaults, which differ from those of transformers."""
OF_TRANSFORMERS = {"update_interval": "update_proj_gap"}
SEVERAL_BACKWARDS = ("dpo", "kto", "orpo", "ppo")


def _low_rank(kind: str) -> Reader:
    """GaLore and APOLLO, by transformers' names."""

    def meaning(on: Any, values: Values) -> Meaning:
        if not on:
            return OFF
        layerwise = bool(values.get(f"{kind}_layerwise"))
        changes = ""
        if layerwise and stage(values) in SEVERAL_BACKWARDS:
            layerwise, changes = False, "weights are updated after the backward pass, not layer by layer in it"
        targets = names(values.get(f"{kind}_target", "all"))
        given = {name: values.get(f"{kind}_{name}", default) for name, default in ARGUMENTS[kind].items()}
        arguments = ",".join(f"{OF_TRANSFORMERS.get(name, name)}={value}" for name, value in given.items())
        return Meaning(
            {
                "optim": f"{kind}_adamw" + ("_layerwise" if layerwise else ""),
                "optim_target_modules": "all-linear" if targets == ["all"] else targets,
                "optim_args": arguments,
            },
            changes=changes,
        )

    return meaning


def _of(kind: str, name: str) -> Reader:
    """An argument of a low-rank optimizer, which is written with it."""
    where = {"target": "optim_target_modules", "layerwise": "optim"}.get(name, "optim_args")
    used, unused = Meaning(reason=f"`{where}` has it"), Meaning(reason=f"only `use_{kind}` reads it")
    return lambda value, values: used if values.get(f"use_{kind}") else unused


def _optim(value: Any, values: Values) -> Meaning | tuple[()]:
    """The optimizer of transformers, which GaLore and APOLLO replace."""
    if values.get("use_galore") or values.get("use_apollo"):
        return Meaning(reason="the low-rank optimizer replaces it")
    return ()


def _schedule(value: Any, values: Values) -> Meaning | tuple[()]:
    """warmup_stable_decay: LLaMA-Factory holds the rate for a third of the steps after the warmup, and lowers it for the rest."""
    given, steps = values.get("lr_scheduler_kwargs") or {}, number(values.get("max_steps")) or 0
    if value != "warmup_stable_decay" or steps < 1 or stage(values) == "ppo" or not isinstance(given, dict):
        return ()
    share = number(values.get("warmup_steps")) or number(values.get("warmup_ratio")) or 0
    left = int(steps) - (math.ceil(steps * share) if 0 < share < 1 else int(share))
    phases = {"num_stable_steps": left // 3, "num_decay_steps": left - left // 3}
    return Meaning(
        {"lr_scheduler_type": value, "lr_scheduler_kwargs": phases | given},
        "LLaMA-Factory holds the learning rate for a third of the steps after the warmup",
    )


def _swanlab(on: Any, values: Values) -> Meaning:
    if not on:
        return OFF
    variables = {
        name: str(values[key]) for key, name in SWANLAB.items() if values.get(key) is not None
    }  # fmt: skip
    return Meaning({"report_to": "swanlab"} | ({"env": variables} if variables else {}))


SWANLAB = {
    "swanlab_project": "SWANLAB_PROJECT",
    "swanlab_workspace": "SWANLAB_WORKSPACE",
    "swanlab_mode": "SWANLAB_MODE",
    "swanlab_logdir": "SWANLAB_LOG_DIR",
}


def _report_to(value: Any, values: Values) -> Meaning | tuple[()]:
    return Meaning(reason="`use_swanlab` replaces it") if values.get("use_swanlab") else ()


def _trained(on: Any, values: Values) -> Meaning | tuple[()]:
    if on:
        return ()
    return Meaning(reason="`trl-ext run` always trains", changes="the file does not train, and a recipe does")


def _evaluated(on: Any, values: Values) -> Meaning | tuple[()]:
    if not on or values.get("eval_strategy") not in (None, "no"):
        return ()
    return Meaning(
        reason="`trl-ext eval RUN` evaluates a run at its end", changes="there is no evaluation at the end of the run"
    )


def _launched(reason: str) -> Reader:
    """What the launcher decides, which has no effect on the result."""
    advice = "launch on several GPUs with `accelerate launch --multi_gpu --num_processes 2 -m trl_ext run RECIPE`"
    return lambda value, values: Meaning(reason=reason, advice=advice) if value else ()


def _resumed(value: Any, values: Values) -> Meaning | tuple[()]:
    if not value:
        return ()
    return Meaning(
        reason="checkpoints of LLaMA-Factory have another form",
        changes="training starts again from `model_name_or_path`",
    )


def _shuffled(off: Any, values: Values) -> Meaning:
    if not off:
        return OFF
    return Meaning({"shuffle_dataset": False} if stage(values) == "ppo" else {"train_sampling_strategy": "sequential"})


def _replaced_loss(name: str) -> Reader:
    return lost("`trainer: sft` has TRL's losses nll and dft", f"the loss is the plain likelihood, not {name}")


def _likelihood(on: Any, values: Values) -> Meaning:
    if stage(values) not in ("sft", "pt"):
        return Meaning(reason="only supervised fine-tuning reads it")
    return Meaning({"loss_type": "dft"}) if on else OFF


MEGATRON = Meaning(reason="Megatron and HyperParallel are not used")

MEANS: dict[str, str | Meaning | Reader] = {
    "use_galore": _low_rank("galore"),
    "use_apollo": _low_rank("apollo"),
    **{f"galore_{name}": _of("galore", name) for name in ("target", "layerwise", *ARGUMENTS["galore"])},
    **{f"apollo_{name}": _of("apollo", name) for name in ("target", "layerwise", *ARGUMENTS["apollo"])},
    "apollo_scale_front": lost("transformers' APOLLO has no such argument", "the norm-growth limiter comes after the scaling"),
    "optim": _optim,
    "lr_scheduler_type": _schedule,
    "use_badam": lost("transformers has no BAdam", "all weights are updated in every step, by `optim`"),
    **dict.fromkeys(
        (
            "badam_mode", "badam_start_block", "badam_switch_mode", "badam_switch_interval", "badam_update_ratio",
            "badam_mask_mode", "badam_verbose",
        ),
        Meaning(reason="only BAdam reads it"),
    ),
    "use_adam_mini": lost("transformers has no Adam-mini", "the optimizer is `optim`"),
    "use_muon": lost("transformers has no Muon", "the optimizer is `optim`"),
    # losses of supervised fine-tuning
    "use_dft_loss": _likelihood,
    "use_asft_loss": _replaced_loss("ASFT"),
    "use_eaft_loss": _replaced_loss("EAFT"),
    "asft_alpha": Meaning(reason="only ASFT reads it"),
    "eaft_alpha": Meaning(reason="only EAFT reads it"),
    # the run
    "do_train": _trained,
    "do_eval": _evaluated,
    "do_predict": lambda on, values: () if not on else Meaning(
        reason="`trl-ext chat RUN` and `trl-ext eval RUN` show completions", changes="no predictions are written"
    ),
    "overwrite_output_dir": Meaning(reason="a run directory is never overwritten: name another `output_dir`, or resume"),
    "resume_from_checkpoint": _resumed,
    "disable_shuffling": _shuffled,
    "early_stopping_steps": lost("a run has the steps that the recipe says", "training does not stop early"),
    "plot_loss": Meaning(reason="curves are always drawn"),
    "compute_accuracy": Meaning(reason="the accuracy of tokens is always logged"),
    "include_effective_tokens_per_second": Meaning(reason="tokens are always counted"),
    "use_swanlab": _swanlab,
    "report_to": _report_to,
    **{key: Meaning(reason="it is part of `env`, and only SwanLab reads it") for key in SWANLAB},
    "swanlab_run_name": "run_name",
    "swanlab_api_key": Meaning(reason="a key does not belong in a file: log in once with `swanlab login`"),
    **dict.fromkeys(("swanlab_lark_webhook_url", "swanlab_lark_secret"), Meaning(reason="no messages are sent to Lark")),
    # launchers
    "deepspeed": _launched("DeepSpeed is not used"),
    "fsdp": _launched("the launcher decides how weights are divided among GPUs"),
    "fsdp_config": _launched("the launcher decides how weights are divided among GPUs"),
    "fsdp_transformer_layer_cls_to_wrap": Meaning(reason="the launcher decides how weights are divided among GPUs"),
    "fp8": lost("training is in bfloat16", "matrix products are in bfloat16, not in float8"),
    **dict.fromkeys(("fp8_backend", "fp8_enable_fsdp_float8_all_gather"), Meaning(reason="only float8 training reads it")),
    **dict.fromkeys(
        ("ray_num_workers", "ray_init_kwargs", "master_addr", "master_port"),
        Meaning(reason="processes are started by `accelerate launch`, not by Ray"),
    ),
    **dict.fromkeys(
        (
            "enable_torch_profiler", "profiler_output_dir", "profiler_wait_steps", "profiler_warmup_steps",
            "profiler_active_steps", "profiler_repeat", "profiler_record_shapes", "profiler_profile_memory",
            "profiler_with_stack", "profile_modules",
        ),
        Meaning(reason="there is no profiler"),
    ),
    **dict.fromkeys(
        ("predict_with_generate", "generation_max_length", "generation_num_beams", "generation_config", "eval_num_beams"),
        Meaning(reason="evaluation of completions in the data generates nothing"),
    ),
    "sortish_sampler": Meaning(reason="rows are not sorted by length across steps"),
    **dict.fromkeys(
        (
            "use_mca", "use_megatron_bridge", "megatron_bridge_args", "use_hyper_parallel", "hyper_parallel_args",
            "hyper_parallel_cp_size", "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size",
            "context_parallel_size", "virtual_pipeline_model_parallel_size", "sequence_parallel", "recompute_granularity",
            "recompute_method", "recompute_num_layers", "account_for_embedding_in_pipeline_split",
            "account_for_loss_in_pipeline_split", "bias_activation_fusion", "apply_rope_fusion", "masked_softmax_fusion",
            "cross_entropy_loss_fusion", "moe_grouped_gemm", "moe_token_dispatcher_type", "calculate_per_token_loss",
            "use_distributed_optimizer", "overlap_param_gather", "overlap_grad_reduce", "use_packed_sequences",
            "mixed_precision", "megatron_pretrained_checkpoint", "export_hf_on_finish", "extra_config",
        ),
        MEGATRON,
    ),
    # `llamafactory-cli eval`
    **dict.fromkeys(
        ("task", "task_dir", "lang", "n_shot", "save_dir", "download_mode", "batch_size"),
        Meaning(reason="it is for LLaMA-Factory's benchmarks, so it has no effect on training"),
    ),
}  # fmt: skip
