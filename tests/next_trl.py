"""Where to look when TRL's next minor release comes: which parts of TRL ours follow, and what TRL has announced to remove.

`docs/generate.py` writes both tables into CONTRIBUTING.md; `tests/test_next_trl.py` compares them with the installed TRL.
"""

from typing import NamedTuple

WRITTEN_FOR = "1.17"
"""The upper bound of `trl` in pyproject.toml. Raising it means going through the list again."""


class Part(NamedTuple):
    """A file of TRL that ours follow.

    Attributes:
        file: Inside `trl/`.
        names: Its functions, methods and classes whose difference is read.
        ours: What has to follow, inside `trl_ext/`.
        tests: Inside `tests/`: compare ours with TRL's, and fail if only one of them changes.
    """

    file: str
    names: tuple[str, ...]
    ours: str
    tests: tuple[str, ...]


PARTS = (
    Part(
        "trainer/dpo_trainer.py",
        ("__init__", "_prepare_dataset", "_precompute_ref_logps", "_compute_loss", "prediction_step"),
        "trainers/preference",
        (
            "trainers/preference/test_parity_with_trl_dpo.py",
            "trainers/preference/test_evaluation.py",
            "trainers/preference/test_images_against_trl.py",
        ),
    ),
    Part(
        "trainer/kto_trainer.py",
        ("__init__", "_prepare_dataset", "_get_train_sampler", "_compute_kl_logps", "_compute_loss"),
        "trainers/preference",
        ("trainers/preference/test_parity_with_trl_kto.py",),
    ),
    Part(
        "trainer/rloo_trainer.py",
        (
            "__init__",
            "_generate_and_score_completions",
            "_generate_single_turn",
            "_tokenize_prompts",
            "_calculate_rewards",
            "_get_per_token_logps_and_entropies",
            "_compute_loss",
        ),
        "trainers/rollout",
        ("trainers/rloo/test_parity_with_trl.py", "trainers/rollout/test_sampler.py", "trainers/ppo/test_rollout.py"),
    ),
    Part(
        "trainer/grpo_trainer.py",
        ("_compute_loss", "get_off_policy_mask", "get_gamma_weights", "_tool_call_loop"),
        "trainers/grpo",
        ("trainers/grpo/test_parity_with_trl.py",),
    ),
    Part(
        "trainer/sft_trainer.py",
        ("__init__", "_prepare_dataset", "compute_loss", "prediction_step"),
        "trainers/sft_and_reward.py",
        ("inspection/test_against_trl.py", "trainers/test_streams.py"),
    ),
    Part(
        "trainer/reward_trainer.py",
        ("__init__", "_prepare_dataset", "compute_loss"),
        "trainers/sft_and_reward.py",
        ("trainers/test_reward_margin.py", "inspection/test_against_trl.py"),
    ),
    Part(
        "trainer/utils.py",
        ("add_fused_lm_head", "RepeatSampler", "pad", "get_config_model_id", "is_async_callable"),
        "batching",
        ("batching/test_head.py", "batching/test_layout.py", "reference/test_starting_point.py"),
    ),
    Part("kernels/chunked_logprob.py", (), "batching/head.py", ("batching/test_head.py",)),
    Part(
        "generation/vllm_generation.py",
        ("VLLMGeneration", "generate", "sync_weights"),
        "trainers/rollout",
        ("trainers/ppo/test_correction.py", "trainers/rollout/test_generation.py"),
    ),
    Part(
        "data_utils.py",
        ("is_conversational", "maybe_convert_to_chatml", "apply_chat_template", "pack_dataset"),
        "data",
        ("inspection/test_against_trl.py", "export/test_held_out.py"),
    ),
    Part(
        "chat_template_utils.py",
        ("get_training_chat_template", "has_generation_markers"),
        "build/template.py",
        ("build/test_template_variables.py",),
    ),
)


class Announced(NamedTuple):
    """A deprecation that the installed TRL warns of, in a class that ours inherit from or call.

    Attributes:
        name: As it stands in the text of TRL's warning.
        ours: Where trl-ext has it, and what follows when TRL drops it.
    """

    name: str
    ours: str


ANNOUNCED = (
    Announced(
        "`return_outputs=True`",
        "logits for `compute_metrics` and `preprocess_logits_for_metrics`: preference trainers compute their own "
        "(`trainers/preference/evaluation.py`) and can keep them; SFT and reward models lose theirs",
    ),
    Announced(
        "`use_liger_kernel=True`",
        "`checks/packages.py`, `checks/switches.py`, and files converted by `foreign`, which then get "
        "`model_init_kwargs: {use_kernels: true}`",
    ),
    Announced("`pad_token`", "a setting, passed through; `evaluation/scores.py` lists it"),
    Announced(
        "`'keep_end'` truncation mode",
        "`inspection/truncation.py`, `trainers/common/packing.py`, `trainers/preference/references.py`, `checks/rows.py`",
    ),
    Announced("`bfd-requeue`", "a value of `packing_strategy`, passed through"),
    Announced("`loss_type='chunked_nll'`", "a value of `loss_type` of `trainer: sft`, passed through"),
    Announced("`compute_loss_func`", "`trainers/common/overrides.py`, which refuses it for preference trainers"),
    Announced("`label_smoothing_factor`", "`checks/launch.py` and `checks/objective.py`, for `trainer: sft`"),
    Announced("`use_transformers_paged`", "`checks/switches.py`"),
    Announced("`vllm_importance_sampling_cap`", "`trainers/grpo/config.py`, which reads it as `…_clip_max`"),
    Announced("`chosen_input_ids`/`rejected_input_ids`", "nothing: rows are tokenised by the trainer"),
    Announced("`response_schema`", "nothing: GRPO's calls of tools are TRL's own"),
)
