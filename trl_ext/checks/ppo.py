"""What PPO's settings do together."""

from collections.abc import Callable, Iterator
from typing import Any

from trl_ext.checks import rewards
from trl_ext.checks.sampling import Values, joined, sampling
from trl_ext.recipe import schema


def kl_in_words(effective: Callable[[str], Any]) -> tuple[str, str]:
    """Which KL is taken where and how much of it, and the gradient this gives.

    Args:
        effective: Gives a setting by its name.
    """
    from trl_ext.rl import truth_table

    estimator, placement = effective("kl_estimator"), effective("kl_placement")
    level = truth_table.check(estimator, placement, effective("kl_level"))
    steering = f", steered towards {effective('kl_target')}" if effective("kl_controller") == "adaptive" else ""
    return (
        f"{estimator} in the {placement} at {level} level, coefficient {effective('kl_coef'):g}{steering}",
        " ".join(truth_table.GRADIENTS[estimator, placement, level]),
    )


WITHOUT_EFFECT = {
    "data_seed": "the order of prompts follows `seed`",
    "train_sampling_strategy": "whether prompts are shuffled says `shuffle_dataset`",
    "length_column_name": "prompts are not grouped by length",
    "include_num_input_tokens_seen": "prompts and completions are counted anyway, as `num_tokens`",
    "include_for_metrics": "evaluation scores sampled completions and predicts nothing",
    "batch_eval_metrics": "evaluation scores sampled completions and predicts nothing",
    "label_names": "there are no labels",
    "ds3_gather_for_generation": "DeepSpeed is not supported here",
    "log_multimodal": "prompts are text",
    "ref_model_sync_steps": "the reference stays what it is",
    "ref_model_mixup_alpha": "the reference stays what it is",
    "ddp_find_unused_parameters": "gradients are averaged over processes once per step, past DDP",
    "ddp_static_graph": "gradients are averaged over processes once per step, past DDP",
    "ddp_bucket_cap_mb": "gradients are averaged over processes once per step, past DDP",
}
"""Settings of the parents that nothing reads here, and why; harmless, so they are only noted."""

NEEDS = {
    "vllm_": "use_vllm",
    "transformers_continuous_batching_config": "use_transformers_continuous_batching",
    "log_unique_prompts": "log_completions",
    "num_completions_to_print": "log_completions",
    "gradient_checkpointing_kwargs": "gradient_checkpointing",
    "liger_kernel_config": "use_liger_kernel",
}
"""Beginnings of names, and the switch without which such a setting has no effect."""

SWITCHES_OF = {"use_transformers_continuous_batching": ("use_transformers_paged",)}
"""Old names of a switch."""

HARMFUL = {
    "neftune_noise_alpha": "adds noise to the embeddings of one pass and not of the next, so the importance ratios would be "
    "noise too",
    "torch_compile": "would have no effect, as all roles run on the model itself and not on a compiled wrapper",
    "label_smoothing_factor": "would have no effect, as no objective of PPO reads it",
}

CLIPPING = ("epsilon", "epsilon_high", "cliprange_value")


def problems(s: Values) -> Iterator[str]:
    """What cannot work, however many processes there are."""
    for key, reason in HARMFUL.items():
        if s[key]:
            yield f"{s.where(key)} {reason}: remove it."
    yield from rewards.problems(s)


def batches(s: Values, processes: int) -> Iterator[str]:
    """Where completions cannot be divided evenly: into prompts, micro-batches, processes.

    Args:
        s: The settings as the user gave them; TRL's configuration fills in some of these.
        processes: How many processes the run has.
    """
    size, groups = s["per_device_train_batch_size"], s["num_generations"]
    total, steps = s["generation_batch_size"], s["steps_per_generation"]
    if groups is None:
        yield f"{s.where('num_generations')} is empty: give a whole number of at least 1."
        return
    if min(size, groups, total or 1, steps or 1, s["gradient_accumulation_steps"], s["num_generations_eval"] or 1) < 1:
        return  # out of its range, which another sentence says
    each = f"{size} (`per_device_train_batch_size`)" + (f" × {processes} processes" if processes > 1 else "")
    if total and steps:
        yield (
            f"{s.where('generation_batch_size')} and {s.where('steps_per_generation')} both say how many completions a "
            "rollout has: keep one of them."
        )
        return
    if total and total % (size * processes):
        near = max(1, round(total / (size * processes))) * size * processes
        yield (
            f"{s.where('generation_batch_size')} is {total}, which is no multiple of {each} = {size * processes}: "
            f"set it to {near}, for instance."
        )
        return
    steps = steps or s["gradient_accumulation_steps"]
    rollout = total or size * processes * steps
    if rollout % groups:
        given = f"`generation_batch_size` {total}" if total else f"{each} × {steps} micro-batches"
        yield (
            f"{s.where('num_generations')} is {groups}, and a rollout of {rollout} completions ({given}) does not hold a "
            f"whole number of prompts: set `num_generations` to {_near_divisor(rollout, groups)}, for instance, or change "
            "the batch."
        )
    evaluated = s["num_generations_eval"] or groups
    batch = s["per_device_eval_batch_size"] * processes
    if s["eval_strategy"] not in (None, "no") and batch % evaluated:
        key = "num_generations_eval" if s["num_generations_eval"] else "num_generations"
        yield (
            f"{s.where(key)} is {evaluated}, and an evaluation batch of {batch} completions (`per_device_eval_batch_size`, "
            "over all processes) does not hold a whole number of prompts: set `num_generations_eval` to "
            f"{_near_divisor(batch, evaluated)}, or `per_device_eval_batch_size` to "
            f"{-(-s['per_device_eval_batch_size'] // evaluated) * evaluated}."
        )


def notes(s: Values) -> list[str]:
    """What works and may not be what was meant."""
    found = [sampling(s), clipping(s), best(s)]
    for key, reason in WITHOUT_EFFECT.items():
        if differs(s, key):
            found.append(f"{s.where(key)} has no effect in PPO: {reason}.")
    for key in schema.training("ppo"):
        switch = next((switch for start, switch in NEEDS.items() if key.startswith(start)), None)
        if switch and differs(s, key) and not any(s[name] for name in (switch, *SWITCHES_OF.get(switch, ()))):
            found.append(f"{s.where(key)} has no effect without `{switch}: true`.")
    if differs(s, "num_generations_eval") and s["eval_strategy"] in (None, "no"):
        found.append(f"{s.where('num_generations_eval')} has no effect without `eval_strategy`.")
    return [sentence for sentence in found if sentence]


def clipping(s: Values) -> str | None:
    """One sentence if clipping is set and no rollout is older than the policy it trains."""
    accumulated = s["gradient_accumulation_steps"]
    steps = s["steps_per_generation"] or (None if s["generation_batch_size"] else accumulated)
    if steps is None or steps > accumulated or s["num_iterations"] != 1:
        return None
    changed = [s.where(key) for key in CLIPPING if differs(s, key)]
    if not changed:
        return None
    have = "has" if len(changed) == 1 else "have"
    return (
        f"{joined(changed)} {have} no effect: each rollout is used for one step, where policy and values are those it was "
        "sampled with; set `num_iterations` to 2 or more to use it again."
    )


def best(s: Values) -> str | None:
    """One sentence if the best checkpoint is chosen by a loss that says nothing about the policy."""
    if not s["load_best_model_at_end"] or s["metric_for_best_model"] not in (None, "loss", "eval_loss"):
        return None
    return (
        f"{s.where('load_best_model_at_end')} compares losses, and PPO's say nothing about how good a policy is: set "
        "`metric_for_best_model: score` and `greater_is_better: true`."
    )


def differs(s: Values, key: str) -> bool:
    """Whether a setting is set to something else than its default."""
    default = schema.training("ppo")[key].default
    return default is not schema.MISSING and s[key] != default


def _near_divisor(total: int, wanted: int) -> int:
    """The divisor of `total` nearest to `wanted`, the larger of two."""
    return min((n for n in range(total, 0, -1) if total % n == 0), key=lambda n: abs(n - wanted))
