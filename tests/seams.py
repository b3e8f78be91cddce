"""Every place that relies on an internal of TRL, transformers, peft, accelerate or bitsandbytes, with its test.

Overridden methods are listed in `tests.trainers.test_overrides`. Here are the others: functions, classes and texts of those
libraries that are no documented interface. `tests/test_seams.py` fails for a file that imports such a thing and is not listed.
"""

from typing import NamedTuple


class Seam(NamedTuple):
    """One file that relies on internals.

    Attributes:
        file: Inside `trl_ext/`.
        relies_on: What it uses and what it expects of it.
        test: Inside `tests/`: fails when that moves.
    """

    file: str
    relies_on: str
    test: str


SEAMS = (
    Seam(
        "batching/attention.py",
        "transformers' tables of attention functions and of mask functions, by name",
        "batching/test_families.py",
    ),
    Seam("batching/head.py", "`TOKEN_CHUNK_SIZE` of TRL's fused LM head", "batching/test_head.py"),
    Seam(
        "batching/images.py",
        "TRL's collator repeats images for the rejected completions; `compute_3d_position_ids` of transformers' models",
        "batching/test_images.py",
    ),
    Seam("batching/kernels.py", "transformers' `repeat_kv`", "batching/test_kernels.py"),
    Seam(
        "batching/token_kl.py",
        "the names of a configuration's logit scale and cap, as in TRL's `add_fused_lm_head`",
        "batching/test_token_kl.py",
    ),
    Seam("batching/padded.py", "`trl.trainer.utils.pad`", "batching/test_layout.py"),
    Seam(
        "build/adapter_fit.py",
        "peft's base class of layers with an adapter, and its wrapper of modules with trained tokens",
        "model_files/test_fit.py",
    ),
    Seam(
        "build/lora_targets.py",
        "peft's conversion of target names for transformers' fused experts",
        "build/test_lora_targets.py",
    ),
    Seam("build/model.py", "`find_adapter_config_file` of transformers", "build/test_model.py"),
    Seam(
        "build/pretrained.py",
        "does what `create_model_from_path` and `get_quantization_config` of TRL do",
        "build/test_pretrained.py",
    ),
    Seam(
        "build/quantised_base.py",
        "transformers keeps the dtypes of a stored checkpoint; `hf_quantizer` of its models, `quant_state` of bitsandbytes' weights",
        "build/test_quantised_base.py",
    ),
    Seam(
        "model_files/quantised.py",
        "transformers' table of quantizers, and which of them train",
        "model_files/test_quantised.py",
    ),
    Seam(
        "build/refusals.py",
        "the texts of transformers' errors about a missing kernel or tracker",
        "build/test_refusals.py",
    ),
    Seam(
        "checkpoints/manifest.py",
        "the names of the files and folders that accelerate's FSDP writes",
        "trainers/preference/test_sharded.py",
    ),
    Seam(
        "checks/attention.py",
        "the table of attention implementations in transformers' source",
        "checks/test_attention.py",
    ),
    Seam(
        "checks/dataloader.py",
        "the fields of `AcceleratorConfig` in transformers' source",
        "checks/test_dataloader.py",
    ),
    Seam(
        "checks/debug.py",
        "the options of `debug` in transformers' source",
        "checks/test_before_weights.py",
    ),
    Seam(
        "checks/known_tasks.py",
        "where lm-evaluation-harness keeps its task files, and the keys that name tasks, groups and tags",
        "evaluation/tasks/test_loading.py",
    ),
    Seam(
        "checks/model_arguments.py",
        "the names that `from_pretrained` reads in transformers' source",
        "checks/test_dataloader.py",
    ),
    Seam(
        "checks/schedules.py",
        "the schedules and their arguments in transformers' and torch's source",
        "checks/test_schedules.py",
    ),
    Seam("checks/trackers.py", "the table of trackers in transformers' source", "checks/test_packages.py"),
    Seam("data/cache_keys.py", "`_fingerprint` of `datasets.Dataset`", "data/test_checks.py"),
    Seam(
        "data/content_cache.py",
        "`_fingerprint` of `datasets.Dataset`, and the folder of its cache in `datasets.config`",
        "data/test_content_cache.py",
    ),
    Seam(
        "data/json_features.py",
        "the rows from which the JSON builder of `datasets` takes the types",
        "data/test_late_types.py",
    ),
    Seam("data/local.py", "options and decompression of the builders of `datasets`", "data/files/test_compression.py"),
    Seam("data/split_loading.py", "the switch of `datasets.config` for counting downloads", "support/test_hub.py"),
    Seam("evaluation/run_report.py", "`get_config_model_id` of TRL", "evaluation/test_run_report.py"),
    Seam(
        "evaluation/tasks/data.py",
        "the table of builders in `datasets.packaged_modules`",
        "evaluation/tasks/test_loading.py",
    ),
    Seam(
        "evaluation/tasks/folder.py",
        "`Entry`, `TaskIndex.process_cfg` and `load_yaml` of lm-eval",
        "evaluation/tasks/test_loading.py",
    ),
    Seam(
        "evaluation/tasks/harness.py",
        "the `tqdm` that `lm_eval.api.task` calls",
        "evaluation/tasks/test_parity.py",
    ),
    Seam("evaluation/tasks/loading.py", "`TaskManager.task_index` of lm-eval", "evaluation/tasks/test_loading.py"),
    Seam(
        "evaluation/tasks/measure.py",
        "`evaluate` and `normalize_gen_kwargs` of lm-eval, with the seeds that its `simple_evaluate` sets",
        "evaluation/tasks/test_parity.py",
    ),
    Seam(
        "evaluation/tasks/model.py",
        "`HFLM` of lm-eval: `_loglikelihood_tokens`, `tok_batch_encode`, its batch size and its hook of a cache",
        "evaluation/tasks/test_parity.py",
    ),
    Seam("data/sampling.py", "`_resolve_features` of `datasets.IterableDataset`", "data/test_sources.py"),
    Seam(
        "experts/adapter.py",
        "`_activate_lora`, `merge` and the attributes of peft's `ParamWrapper`; `_inject_parameters` of its tuners",
        "experts/test_adapter.py",
    ),
    Seam(
        "experts/forward.py",
        "transformers' table of experts implementations, and the attributes and weights of classes that take one",
        "experts/test_forward.py",
    ),
    Seam("experts/matmul.py", "`_grouped_mm` of transformers", "experts/test_forward.py"),
    Seam(
        "experts/quantizer.py",
        "transformers' table of quantisers, its quantiser for bitsandbytes in 4 bits, and the order in which it loads weights",
        "experts/test_loading.py",
    ),
    Seam(
        "experts/storage.py",
        "bitsandbytes' parametrised 4-bit parameters, and the fields of its `QuantState`; where torch keeps parametrisations",
        "experts/test_loading.py",
    ),
    Seam(
        "experts/targets.py",
        "names of layers of experts that peft maps to fused weights",
        "experts/test_targets.py",
    ),
    Seam(
        "export/gguf/entry.py",
        "`TextModel.get_vocab_base_pre` of llama.cpp's converter, and its error for an unknown tokenizer; `add_add_bos_token` of its writer",
        "export/gguf/test_llama_cpp.py",
    ),
    Seam("export/held_out.py", "TRL's reading of conversations, `maybe_convert_to_chatml`", "export/test_held_out.py"),
    Seam(
        "export/merging.py",
        "`BaseTunerLayer.get_delta_weight` of peft; `align_special_tokens` of transformers",
        "export/test_merging.py",
    ),
    Seam(
        "inspection/special_tokens.py",
        "how tokenizers store their post-processing in `tokenizer.json`; `_tokenizer` of transformers' fast tokenizers",
        "inspection/test_doubled.py",
    ),
    Seam(
        "inspection/tokenise.py",
        "`_prepare_dataset` and `_tokenize_prompts` of TRL's trainers, called on a stand-in",
        "inspection/test_against_trl.py",
    ),
    Seam("inspection/tokenise_images.py", "TRL's collators for data with images", "inspection/test_against_trl.py"),
    Seam("judging/scorers.py", "how TRL recognises asynchronous reward functions", "judging/test_scores.py"),
    Seam("planner/counting.py", "which modules transformers leaves unquantised", "planner/test_counting.py"),
    Seam("planner/dry_run.py", "the buffers of TRL's fused LM head", "planner/test_memory.py"),
    Seam(
        "planner/fake_model.py",
        "`add_fused_lm_head` of TRL, `replace_with_bnb_linear` of transformers, `QuantState` of bitsandbytes",
        "planner/test_memory.py",
    ),
    Seam("planner/lora.py", "peft's default LoRA targets by model type", "planner/test_counting.py"),
    Seam(
        "recipe/schema.py",
        "fields of TRL's and transformers' configurations, read from their source files",
        "recipe/test_schema.py",
    ),
    Seam(
        "reference/frozen_copy.py",
        "TRL's constructors call `add_adapter` for `ref` on the model; peft's `get_peft_model_state_dict` and its inverse",
        "trainers/test_adapter_table.py",
    ),
    Seam("reference/identity.py", "how peft wraps layers and the modules it saves", "reference/test_identity.py"),
    Seam("reference/moving.py", "the tensors of peft's `LoraLayer`", "reference/test_moving.py"),
    Seam(
        "reference/switching.py",
        "the flags that peft's layers and wrappers switch by, and which methods set only them",
        "reference/test_switching.py",
    ),
    Seam("reference/starting_point.py", "`add_fused_lm_head` of TRL", "reference/test_starting_point.py"),
    Seam("report/card.py", "`get_config_model_id` of TRL", "report/test_card.py"),
    Seam("report/loaders.py", "transformers' table of models that read images", "report/test_loaders.py"),
    Seam(
        "runs/movement_examples.py",
        "`_tokenize_prompts` of TRL's RLOO trainer, for the completions that show how far a run has moved",
        "runs/test_movement_of_kinds.py",
    ),
    Seam("runs/report.py", "`get_config_model_id` of TRL", "runs/test_run.py"),
    Seam(
        "search/study.py",
        "experimental parts of Optuna: heartbeats, the repetition of stale trials, groups of TPE; what its samplers are asked",
        "search/test_study.py",
    ),
    Seam("support/quiet.py", "`set_tqdm_hook` of transformers' logging", "support/test_quiet.py"),
    Seam("trainers/common/lora.py", "`ModulesToSaveWrapper` of peft", "trainers/common/test_lora.py"),
    Seam(
        "trainers/common/flags.py",
        "the parsers of TRL and transformers call the type of a field, and pass its metadata to `add_argument`",
        "trainers/test_flags.py",
    ),
    Seam(
        "support/memory_errors.py",
        "which errors accelerate takes for a lack of memory",
        "support/test_memory_errors.py",
    ),
    Seam(
        "trainers/common/paged_states.py",
        "where bitsandbytes' optimizers create and load their states",
        "trainers/common/test_paged_states.py",
    ),
    Seam(
        "trainers/common/staged_checkpoint.py",
        "the files of transformers' checkpoints and their rotation",
        "trainers/common/test_staged_checkpoint.py",
    ),
    Seam(
        "fused/lora.py",
        "the forward pass of peft's `Linear` and `Linear4bit` layers, and their attributes that decide what it computes",
        "fused/test_lora.py",
    ),
    Seam(
        "fused/norm.py",
        "transformers' classes of RMSNorm take one tensor, and have `weight` and `variance_epsilon` or `eps`",
        "fused/test_norm.py",
    ),
    Seam(
        "fused/swiglu.py",
        "the names of the projections of transformers' MLPs; Liger's function of the two projections",
        "fused/test_swiglu.py",
    ),
    Seam(
        "trainers/common/streams.py",
        "`dataloader_config` of accelerate's `Accelerator`; transformers' `find_batch_size` and the output of its evaluation loop",
        "trainers/test_streams.py",
    ),
    Seam(
        "trainers/common/streams.py",
        "accelerate reads one batch ahead, and counts examples of the last batch by `remainder` of the active dataloader",
        "trainers/preference/test_two_processes.py",
    ),
    Seam(
        "trainers/ppo/config.py",
        "how the last error of TRL's RLOO configuration begins, about its minimum of two completions per prompt",
        "trainers/ppo/test_settings.py",
    ),
    Seam(
        "trainers/common/activation_memory.py",
        "`GradientCheckpointingLayer` of transformers, whose layers are checkpointed one by one",
        "trainers/preference/test_row_memory.py",
    ),
    Seam(
        "trainers/common/activation_memory.py",
        "`StorageWeakRef` of torch, which tells storages apart without keeping them",
        "trainers/preference/test_row_memory.py",
    ),
    Seam(
        "trainers/common/publishing.py",
        "transformers' trainer uploads by `hf_api` of its module",
        "trainers/common/test_staged_checkpoint.py",
    ),
    Seam(
        "trainers/common/whole_micro_batches.py",
        "`_metrics` and `_total_train_tokens` of TRL's trainers, which a repeated micro-batch must not change twice",
        "trainers/common/test_whole_micro_batches.py",
    ),
    Seam(
        "trainers/preference/baseline.py",
        "how TRL's collator for images names mismatched pairs",
        "trainers/preference/test_images_against_trl.py",
    ),
    Seam(
        "trainers/preference/fixed_pairs.py",
        "the columns of TRL's mismatched pairs and of their reference values",
        "trainers/preference/test_parity_with_trl_kto.py",
    ),
    Seam(
        "trainers/preference/fixed_pairs.py",
        "that TRL names its file of reference values by the dataset's fingerprint",
        "trainers/preference/test_evaluation.py",
    ),
    Seam(
        "trainers/preference/reference_sync.py",
        "`SyncRefModelCallback.sync_target_model` of TRL; transformers calls `on_pre_optimizer_step` once a step, after the gradient",
        "trainers/preference/test_humanline.py",
    ),
    Seam(
        "trainers/preference/sharded.py",
        "accelerate's policy of mixed precision for FSDP2, which it reads when it prepares the model",
        "trainers/preference/test_sharded.py",
    ),
    Seam(
        "trainers/rollout/greedy.py",
        "`_generate_single_turn`, `_tokenize_prompts`, `generation_config`, `generation_kwargs` and the pending logs of TRL's RLOO "
        "trainer, for greedy completions",
        "trainers/ppo/test_advantages.py",
    ),
    Seam(
        "trainers/rollout/merged_copy.py",
        "`_from_config` of transformers' models; `LoraLayer`, its `lora_variant`, and the base class of peft's layers",
        "trainers/rollout/test_merged_copy.py",
    ),
    Seam("trainers/rollout/order.py", "the order of TRL's `RepeatSampler`", "trainers/ppo/test_resume.py"),
    Seam(
        "trainers/rollout/order.py",
        "TRL's RLOO trainer shuffles a rollout by its module's `shuffle_sequence_dict`",
        "trainers/rollout/test_rows.py",
    ),
    Seam(
        "trainers/rollout/reward_functions.py",
        "the names TRL gives reward functions",
        "trainers/rollout/test_reward_functions.py",
    ),
    Seam(
        "trainers/rollout/sampler.py",
        "TRL's RLOO trainer samples by `model_wrapped`, and scores by its fused LM head",
        "trainers/rollout/test_sampler.py",
    ),
    Seam(
        "trainers/rollout/sampling_logps.py",
        "a processor given to transformers' `generate` runs once per step, before the temperature",
        "trainers/rollout/test_sampler.py",
    ),
    Seam(
        "trainers/rollout/preallocated_cache.py",
        "the layers of transformers' `DynamicCache`, and which of their tensors and methods `generate` and attention use",
        "trainers/rollout/test_preallocated_cache.py",
    ),
    Seam(
        "trainers/rollout/prompt_attention.py",
        "the layers of transformers' `DynamicCache`, whose `keys` a model gives to a registered attention function; the arguments of that "
        "function; `_can_set_attn_implementation`",
        "trainers/rollout/test_prompt_attention.py",
    ),
    Seam(
        "trainers/rollout/shared_prompts.py",
        "the argument of transformers' models and of `generate` that takes a cache, and its name in their output",
        "trainers/rollout/test_shared_prompts.py",
    ),
    Seam(
        "trainers/rollout/trainer.py",
        "TRL's RLOO trainer switches to the reference by its module's `use_adapter`",
        "trainers/rollout/test_reference_pass.py",
    ),
    Seam(
        "trainers/rollout/reward_adapter.py",
        "`_tokenize_prompts` of TRL's RLOO trainer, for the reward adapter",
        "trainers/rollout/test_reward_position.py",
    ),
    Seam(
        "trainers/rollout/vllm_logps.py",
        "`generate` of TRL's `VLLMGeneration` returns log-probabilities third, as many as its `logprobs` says",
        "trainers/ppo/test_correction.py",
    ),
    Seam(
        "trainers/rollout/vllm_weights.py",
        "`LoraLayer` and `dequantize_module_weight` of peft, for weights that are sent to vLLM",
        "trainers/rollout/test_generation.py",
    ),
)

PUBLIC = {
    "accelerate.utils",
    "accelerate.utils.memory",
    "datasets.fingerprint",
    "peft.utils",
    "transformers.trainer_callback",
    "transformers.trainer_utils",
    "transformers.training_args",
    "transformers.utils.peft_utils",
    "transformers.pytorch_utils",
    "trl.rewards",
}
"""Modules whose names used here have been stable for years, or are documented: importing them alone makes no seam."""
