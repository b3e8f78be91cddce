"""Names of the arguments of LLaMA-Factory (August 2026), by the classes that its commands parse."""

CLASSES = {
    "FreezeArguments": ("freeze_trainable_layers freeze_trainable_modules freeze_extra_modules"),
    "LoraArguments": (
        "additional_target lora_alpha lora_dropout lora_rank lora_target loraplus_lr_ratio "
        "loraplus_lr_embedding use_rslora use_dora pissa_init pissa_iter pissa_convert create_new_adapter"
    ),
    "OFTArguments": ("additional_target module_dropout oft_rank oft_block_size oft_target create_new_adapter"),
    "RLHFArguments": (
        "pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing kto_chosen_weight "
        "kto_rejected_weight simpo_gamma ppo_buffer_size ppo_epochs ppo_score_norm ppo_target "
        "ppo_whiten_rewards ref_model ref_model_adapters ref_model_quantization_bit reward_model "
        "reward_model_adapters reward_model_quantization_bit reward_model_type ld_alpha"
    ),
    "GaloreArguments": (
        "use_galore galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise"
    ),
    "ApolloArguments": (
        "use_apollo apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj "
        "apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front"
    ),
    "BAdamArgument": (
        "use_badam badam_mode badam_start_block badam_switch_mode badam_switch_interval badam_update_ratio "
        "badam_mask_mode badam_verbose"
    ),
    "SwanLabArguments": (
        "use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key "
        "swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret"
    ),
    "FinetuningArguments": (
        "pure_bf16 stage finetuning_type use_llama_pro use_adam_mini use_mca use_megatron_bridge "
        "megatron_bridge_args use_hyper_parallel hyper_parallel_args hyper_parallel_cp_size use_muon "
        "use_dft_loss use_asft_loss asft_alpha use_eaft_loss eaft_alpha freeze_vision_tower "
        "freeze_multi_modal_projector freeze_language_model compute_accuracy disable_shuffling "
        "early_stopping_steps plot_loss include_effective_tokens_per_second"
    ),
    "DataArguments": (
        "template dataset eval_dataset dataset_dir media_dir cutoff_len train_on_prompt mask_history "
        "streaming buffer_size mix_strategy interleave_probs overwrite_cache preprocessing_batch_size "
        "preprocessing_num_workers max_samples eval_num_beams ignore_pad_token_for_loss val_size "
        "eval_on_each_dataset packing neat_packing tool_format default_system enable_thinking "
        "preserve_thinking tokenized_path data_shared_file_system"
    ),
    "BaseModelArguments": (
        "model_name_or_path adapter_name_or_path adapter_folder cache_dir use_fast_tokenizer resize_vocab "
        "split_special_tokens add_tokens add_special_tokens new_special_tokens_config init_special_tokens "
        "model_revision low_cpu_mem_usage rope_scaling flash_attn shift_attn mixture_of_depths use_unsloth "
        "use_unsloth_gc enable_liger_kernel moe_aux_loss_coef disable_gradient_checkpointing use_reentrant_gc "
        "upcast_layernorm upcast_lmhead_output train_from_scratch infer_backend offload_folder use_kv_cache "
        "use_v1_kernels infer_dtype hf_hub_token ms_hub_token om_hub_token print_param_status "
        "trust_remote_code"
    ),
    "QuantizationArguments": (
        "quantization_method quantization_bit quantization_type double_quantization quantization_device_map"
    ),
    "ProcessorArguments": (
        "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels "
        "video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate"
    ),
    "ExportArguments": (
        "export_dir export_size export_device export_quantization_bit export_quantization_dataset "
        "export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id"
    ),
    "VllmArguments": ("vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config"),
    "SGLangArguments": ("sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend"),
    "KTransformersArguments": (
        "use_kt kt_cpu_activation kt_weight_path kt_non_expert_weight_path kt_expert_checkpoint_path "
        "kt_use_lora_experts kt_lora_expert_num kt_lora_expert_intermediate_size"
    ),
    "ModelArguments": ("compute_dtype device_map model_max_length block_diag_attn"),
    "RayArguments": ("ray_num_workers ray_init_kwargs master_addr master_port"),
    "ProfilerArguments": (
        "enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps "
        "profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory "
        "profiler_with_stack profile_modules"
    ),
    "Fp8Arguments": ("fp8 fp8_backend fp8_enable_fsdp_float8_all_gather"),
    "TrainingArguments": ("overwrite_output_dir"),
    "GeneratingArguments": (
        "do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty "
        "length_penalty skip_special_tokens"
    ),
    "EvaluationArguments": ("task task_dir batch_size seed lang n_shot save_dir download_mode"),
    "MegatronBridgeArguments": (
        "tensor_model_parallel_size pipeline_model_parallel_size expert_model_parallel_size "
        "context_parallel_size virtual_pipeline_model_parallel_size sequence_parallel recompute_granularity "
        "recompute_method recompute_num_layers account_for_embedding_in_pipeline_split "
        "account_for_loss_in_pipeline_split bias_activation_fusion apply_rope_fusion masked_softmax_fusion "
        "cross_entropy_loss_fusion moe_grouped_gemm moe_token_dispatcher_type calculate_per_token_loss "
        "use_distributed_optimizer overlap_param_gather overlap_grad_reduce use_packed_sequences "
        "mixed_precision megatron_pretrained_checkpoint export_hf_on_finish extra_config"
    ),
    "Seq2SeqTrainingArguments": (
        "sortish_sampler predict_with_generate generation_max_length generation_num_beams generation_config"
    ),
}
ARGUMENTS = tuple(name for names in CLASSES.values() for name in names.split())

V1_ARGUMENTS = tuple(
    (
        "model custom_chat_template trust_remote_code flash_attn model_class init_config peft_config "
        "kernel_config quant_config train_dataset eval_dataset sample_backend max_new_tokens output_dir "
        "micro_batch_size global_batch_size cutoff_len learning_rate num_train_epochs max_steps max_grad_norm "
        "bf16 batching_strategy batching_workers enable_activation_checkpointing dist_config dp_size cp_size "
        "cp_mode mp_replicate_size mp_shard_size dist_timeout optim_config lr_scheduler_config seed "
        "full_determinism resume_from_checkpoint save_steps save_epochs save_ckpt_as_hf save_total_limit "
        "logging_steps pref_loss pref_beta pref_ftx simpo_gamma dpo_label_smoothing ld_alpha"
    ).split()
)
