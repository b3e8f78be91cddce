"""List axolotl's keys without a counterpart: several devices, services, and trainings that plugins add."""

from typing import Any

from trl_ext.foreign.axolotl.kind import kind, unless_off
from trl_ext.foreign.axolotl.objective import no_counterpart
from trl_ext.foreign.common import DEFAULT, of
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning

_LAUNCHED = "it says how several devices share the work, and the launcher does that here"
_LAUNCH = "for several GPUs, start with `accelerate launch --multi_gpu --num_processes 2 -m trl_ext run RECIPE`"


def _several(reason: str, advice: str = "") -> Reader:
    """A key about several devices, which says nothing for one."""
    found = unless_off(Meaning(reason=reason, advice=advice))
    return lambda value, values: DEFAULT if value == 1 else found(value, values)


_SAMPLING = Meaning(reason="only a trainer that samples completions reads it, and axolotl's have no counterpart here")
_PLUGINS = {
    "LigerPlugin": "",
    "CutCrossEntropyPlugin": "",
    "KernelsPlugin": "",
    "ExpertParallelPlugin": "",
    "SwanLabPlugin": "",
    "LMEvalPlugin": "",
    "KDPlugin": "the loss is not mixed with a teacher's",
    "DiffusionPlugin": "",
    "GrokfastPlugin": "gradients are not filtered",
    "SpectrumPlugin": "all weights are trained, not those with the best ratio of signal to noise",
    "DenseMixerPlugin": "experts get gradients only where the router chose them",
    "LLMCompressorPlugin": "weights that are 0 do not stay 0",
    "MoraPlugin": "a LoRA is trained, not MoRA",
    "HatcheryPlugin": "it is trained on this computer",
    "NemoGymPlugin": "there are no rewards of an environment",
}
"""Plugins of axolotl, and how training differs without each of them."""


def _plugins(given: Any, values: Values) -> tuple[Meaning, ...]:
    listed = given if isinstance(given, list) else [given]
    found = [_plugin(str(path), number) for number, path in enumerate(listed)]
    return (
        (*found, no_counterpart("diffusion"))
        if kind(values) == "diffusion" and not values.get("diffusion")
        else tuple(found)
    )


def _plugin(path: str, number: int) -> Meaning:
    name, part = path.rpartition(".")[2], f"plugins[{number}]"
    if name not in _PLUGINS:
        return Meaning(reason=f"{name} is not known here", changes="training lacks what it does", part=part)
    reason = f"{name} is not available" if _PLUGINS[name] else f"{name} changes speed or reports, not what is trained"
    return Meaning(reason=reason, changes=_PLUGINS[name], part=part)


def _fp8_experts(value: Any, values: Values) -> Meaning:
    return Meaning(reason="the weights are read as they are stored")


def _off(reason: str, changes: str) -> Reader:
    return unless_off(Meaning(reason=reason, changes=changes))


MEANS: dict[str, str | Meaning | Reader] = {
    # several devices
    **dict.fromkeys(
        (
            "fsdp_config", "fsdp_version", "fsdp_final_state_dict_type", "dp_shard_size", "dp_replicate_size", "ddp",
            "accelerator_config", "world_size", "local_rank", "device",
        ),
        _several(_LAUNCHED),
    ),
    **dict.fromkeys(("deepspeed", "fsdp"), _several(_LAUNCHED, _LAUNCH)),
    **dict.fromkeys(
        (
            "sequence_parallel_degree", "context_parallel_size", "tensor_parallel_size", "heads_k_stride", "ring_attn_func",
            "expert_parallel_size", "expert_parallel_backend", "expert_parallel_num_nvl_bytes", "expert_parallel_num_rdma_bytes",
            "expert_parallel_token_capacity", "expert_parallel_fallback_on_unsupported",
        ),
        _several("one row is not split over several devices. Each device trains on rows of its own, with the whole model"),
    ),
    **dict.fromkeys(
        ("use_ray", "ray_run_name", "ray_num_workers", "resources_per_worker"), unless_off(Meaning(reason="Ray is not used"))
    ),
    **dict.fromkeys(
        (
            "gradio_title", "gradio_share", "gradio_server_name", "gradio_server_port", "gradio_max_new_tokens",
            "gradio_temperature",
        ),
        unless_off(Meaning(reason="`trl-ext chat RUN` talks to a model after training")),
    ),
    # other trainings
    "ebft": _SAMPLING,
    "vllm": _SAMPLING,
    "plugins": unless_off(_plugins),
    "use_eaft": _off("EAFT is not available", "tokens are not weighted by their entropy"),
    "eaft_alpha": Meaning(reason="only `use_eaft` reads it"),
    "eaft_k": Meaning(reason="only `use_eaft` reads it"),
    "qat": _off("training for a later quantisation is not available", "weights are not rounded in the forward pass"),
    "quantization": unless_off(Meaning(reason="it says how a finished model is quantised")),
    "use_onebitllms": _off("1.58-bit weights are not trained", "the weights are trained in 16 bits"),
    "diffusion": unless_off(of(lambda _: no_counterpart("diffusion"))),
    "dense_mixer": _off("DenseMixer is not available", "experts get gradients only where the router chose them"),
    "mora": _off("MoRA is not available", "a LoRA is trained"),
    "llmcompressor": _off("sparse training is not available", "weights that are 0 do not stay 0"),
    "spectrum_top_fraction": _off("Spectrum is not available", "all weights are trained"),
    "spectrum_model_name": Meaning(reason="only Spectrum reads it"),
    "hatchery": unless_off(Meaning(reason="training takes place on this computer")),
    "kd_trainer": _off("distillation is not available", "the loss is not mixed with a teacher's"),
    **dict.fromkeys(
        (
            "kd_ce_alpha", "kd_alpha", "kd_temperature", "kd_beta", "kd_normalize_topk", "kd_online_server_base_url",
            "kd_online_topk", "kd_online_server", "kd_online_timeout", "kd_temperature_min",
        ),
        Meaning(reason="only distillation reads it"),
    ),
    **dict.fromkeys(
        (
            "nemo_gym_enabled", "nemo_gym_dir", "nemo_gym_auto_clone", "nemo_gym_config_paths", "nemo_gym_head_port",
            "nemo_gym_server_timeout", "nemo_gym_verify_timeout", "nemo_gym_run_timeout", "nemo_gym_datasets",
            "nemo_gym_auto_start", "nemo_gym_model_name", "nemo_gym_multi_turn", "nemo_gym_max_turns",
        ),
        unless_off(Meaning(reason="there are no rewards of an environment")),
    ),
    **dict.fromkeys(
        (
            "dsv4_fp8_nonexpert_mode", "dsv4_bf16_all", "dsv4_fp4_grouped_mode", "gemma4_fp8_nonexpert", "gemma4_nf4_nonexpert",
            "nonexpert_quantization", "nvfp4_merge_aware", "nvfp4_merge_aware_start_step",
        ),
        unless_off(_fp8_experts),
    ),
    # of the program itself
    **dict.fromkeys(
        ("strict", "axolotl_config_path", "capabilities", "env_capabilities", "dpo_use_logits_to_keep"),
        Meaning(reason="it says nothing about training"),
    ),
    **dict.fromkeys(
        (
            "debug", "eta_min", "adam_eps", "full_finetune", "torch_dtype", "gptq_groupsize", "gptq_model_v1",
            "gptq_disable_exllama", "sample_packing_seq_len_multiplier",
        ),
        Meaning(reason="axolotl does not read it"),
    ),
}  # fmt: skip
"""Every key of this part."""
