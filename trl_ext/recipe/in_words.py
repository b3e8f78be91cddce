"""Describe what a recipe trains, part by part and defaults included, without reading its data.

`trl-ext validate`, the first lines of a run and the page of a run use these words.
"""

from pathlib import Path
from typing import Any

from trl_ext import demo
from trl_ext.checks import objective
from trl_ext.checks.kl import kl_in_words
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter as adapters
from trl_ext.model_files import quantised
from trl_ext.rl import advantages, grpo_losses, policy_gradient
from trl_ext.support.counts import count
from trl_ext.support.messages import plain


def loss(recipe: Any) -> dict[str, str]:
    """The loss with its formula, what changes it, its hyperparameters and its reference."""
    return {
        "loss": recipe.info.name,
        "formula": recipe.info.formula,
        **changes(recipe),
        "hyperparameters": mapping(recipe.info.fill(recipe.loss_kwargs)),
        "reference": reference(recipe) if recipe.needs_reference else "none",
    }


def changes(recipe: Any) -> dict[str, str]:
    """The settings that change what is minimised; empty if there are none."""
    found = objective.changes(recipe.effective)
    return {"changed by": "; ".join(found)} if found else {}


def advantage(recipe: Any) -> dict[str, str]:
    """The advantage with its formula, its critic, the policy's loss and the rollout of a policy gradient."""
    effective = recipe.effective
    info, settled = advantages.describe(effective("advantage")), policy_gradient.settled(effective)
    rate = effective("critic_learning_rate")
    rate = 10 * effective("learning_rate") if rate is None else rate
    whitened = ", whitened over the rollout" if settled["normalize_advantages"] else ""
    read = mapping(policy_gradient.hyperparameters(effective))
    objective = grpo_losses.translated(effective)("policy_objective")
    level = settled["importance_sampling_level"]
    ratio = f", ratio {policy_gradient.LEVELS[level]}" if level is not None else ""
    greedy = " and one greedy completion" if info.needs_greedy else ""
    return {
        "advantage": f"{info.name}: {info.formula}{whitened} ({info.paper})",
        **({"hyperparameters": read} if info.hyperparameters else {}),
        "critic": f"an adapter with a value head, learning rate {rate:g}" if info.needs_critic else "none",
        "policy loss": f"{objective}{ratio}; {policy_gradient.AGGREGATIONS[settled['loss_aggregation']]}",
        "rollout": f"{count(settled['num_generations'], 'completions')}{greedy} per prompt, "
        f"{epochs(effective('num_iterations'))} per rollout",
    }


def kl(recipe: Any) -> dict[str, str]:
    """The KL of a policy gradient, the gradient that it gives, and its reference."""
    if not recipe.needs_reference:
        return {"KL": "none: its coefficient is 0", "reference": "none"}
    term, gradient = kl_in_words(recipe.effective)
    return {"KL": term, "KL gradient": gradient, "reference": reference(recipe)}


def rewards(recipe: Any) -> str:
    adapter = [f"the adapter {recipe.get('reward_adapter')}"] if recipe.get("reward_adapter") else []
    return ", ".join([*(recipe.get("reward_funcs") or []), *adapter])


def model_and_adapter(recipe: Any) -> dict[str, str]:
    return {"model": f"{_model(recipe)}, {_weights(recipe)}", "adapter": _adapter(recipe)}


def pace(recipe: Any) -> dict[str, str]:
    """Examples per step, length, learning rate and duration."""
    effective = recipe.effective
    each, accumulated = effective("per_device_train_batch_size"), effective("gradient_accumulation_steps")
    rate, schedule = effective("learning_rate"), effective("lr_scheduler_type")
    limit, steps = effective(recipe.method.length_key), effective("max_steps")
    return {
        "step": f"{each} × {accumulated} accumulated = {count(each * accumulated, 'examples')} per process",
        "length": f"at most {count(limit, 'tokens')}" if limit else "no limit",
        "learning rate": f"{rate:g}, {schedule}, {_warmup(recipe)}",
        "duration": count(steps, "steps") if steps > 0 else epochs(effective("num_train_epochs")),
    }


def reference(recipe: Any) -> str:
    """The reference of a loss that needs one. A run prints it too (`trl_ext.trainers.common.step_zero.reference_of`)."""
    if _continued(recipe) is not None:
        what = "a frozen copy of the adapter that training continues from"
    elif recipe.get("use_peft"):
        what = "the base model with its adapter off"
    elif recipe.effective("precompute_ref_log_probs"):
        what = "values precomputed from the initial weights"
    else:
        what = "a second model in memory, the initial weights, because all weights are trained"
    if not recipe.effective("sync_ref_model"):
        return what
    what = "a copy of the adapter" if "adapter" in what else "a second model"
    return f"{what}, {objective.updates(*map(recipe.effective, ('humanline', 'ref_model_sync_steps', 'ref_model_mixup_alpha')))}"


def epochs(n: float) -> str:
    return f"{n:g} epoch{'s' * (n != 1)}"


def mapping(values: dict[str, Any]) -> str:
    """Names and values, separated by commas."""
    return (
        ", ".join(
            f"{key}: {{{mapping(value)}}}" if isinstance(value, dict) else f"{key} {plain(value)}"
            for key, value in values.items()
            if value is not None
        )
        or "none"
    )


def _model(recipe: Any) -> str:
    """The model whose weights are loaded: of an adapter, its base."""
    folder = _continued(recipe)
    name = recipe.get("model_name_or_path") if folder is None else str(adapters.base_of(folder))
    return EMBEDDED if name == str(demo.MODEL) else name


def _weights(recipe: Any) -> str:
    if (stored := quantised.of_model(recipe.get("model_name_or_path"), recipe.get("model_revision"))) is not None:
        return f"stored quantised ({stored.title})"
    if recipe.get("load_in_4bit"):
        twice = ", double quantisation" if recipe.get("use_bnb_nested_quant") else ""
        return f"4 bits ({recipe.effective('bnb_4bit_quant_type')}{twice})"
    return "8 bits" if recipe.get("load_in_8bit") else "not quantised"


def _adapter(recipe: Any) -> str:
    folder, dtype = _continued(recipe), recipe.effective("lora_dtype") or "float32"
    if folder is not None:
        return f"the one in {folder} is trained further: {adapters.in_words(adapters.config(folder))}, {dtype}"
    if not recipe.get("use_peft"):
        return "none; all weights are trained"
    targets = recipe.get("lora_target_modules") or ["the model's default layers"]
    return f"LoRA, rank {recipe.effective('lora_r')}, alpha {recipe.effective('lora_alpha')}, {dtype}, on {', '.join(targets)}"


def _continued(recipe: Any) -> Path | None:
    """The folder of the adapter whose training continues."""
    name = recipe.get("model_name_or_path")
    return Path(name).expanduser() if adapters.is_continued(name) else None


def _warmup(recipe: Any) -> str:
    steps = recipe.effective("warmup_steps")
    if not steps:
        return "no warm-up"
    return f"warm-up over {steps:.0%} of the steps" if steps < 1 else f"warm-up over {count(int(steps), 'steps')}"
