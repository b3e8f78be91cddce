"""Describe what a recipe asks for, a line per subject, defaults included."""

from pathlib import Path
from typing import Any

from trl_ext import demo, methods
from trl_ext.checks import objective
from trl_ext.checks.kl import kl_in_words
from trl_ext.cli.values import plain
from trl_ext.data.files.problems import extent
from trl_ext.data.formats.pairing import Pairing
from trl_ext.data.recognise_file import first_pairs, recognise_file
from trl_ext.data.template_outlook import outlook
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter, chat_template
from trl_ext.support.counts import count


def summary(recipe: Any) -> dict[str, str]:
    """Describe a `trl_ext.recipe.Recipe`: text by subject."""
    effective = recipe.effective
    each, accumulated = effective("per_device_train_batch_size"), effective("gradient_accumulation_steps")
    rate, schedule = effective("learning_rate"), effective("lr_scheduler_type")
    limit = recipe.method.length_key
    return {
        **methods.imported(recipe.method.summary)(recipe),
        "model": f"{_model(recipe)}, {_weights(recipe)}",
        "adapter": _adapter(recipe),
        "chat template": _chat_template(recipe),
        "step": f"{each} × {accumulated} accumulated = {count(each * accumulated, 'examples')} per process",
        "length": f"at most {count(effective(limit), 'tokens')}" if effective(limit) else "no limit",
        "learning rate": f"{rate:g}, {schedule}, {_warmup(recipe)}",
        "duration": (
            count(effective("max_steps"), "steps")
            if effective("max_steps") > 0
            else _epochs(effective("num_train_epochs"))
        ),
    }


def in_brief(recipe: Any) -> list[str]:
    """Two lines for the beginning of a run: the model with its adapter, and the steps."""
    effective, said = recipe.effective, summary(recipe)
    examples = effective("per_device_train_batch_size") * effective("gradient_accumulation_steps")
    unit = "completions" if recipe.method.samples_completions else recipe.method.unit
    adapter = said["adapter"] if recipe.get("use_peft") else "all weights are trained"
    return [
        f"model: {said['model']}; {adapter}",
        f"training: {said['duration']}, {count(examples, unit)} per step, learning rate {said['learning rate']}",
    ]


def preferences(recipe: Any) -> dict[str, str]:
    name, columns = recipe.get("dataset_name") or "", recipe.get("dataset_columns")
    pairing = Pairing(recipe.effective("dataset_pairs"), recipe.effective("dataset_pair_margin"))
    how = (name, columns, recipe.effective("dataset_format"), pairing)
    match = recognise_file(*how)
    found = "" if match is None else f", {match.title}, {'pairs' if match.paired else 'labelled completions'}"
    pairs = first_pairs(*how)
    return {
        **_declared(recipe),
        "data": f"{_dataset(recipe)}{found}; the loss reads {'pairs' if recipe.paired else 'labelled completions'}",
        **({"pairs": pairs} if pairs else {}),
    }


def _declared(recipe: Any) -> dict[str, str]:
    return {
        "loss": recipe.info.name,
        "formula": recipe.info.formula,
        **_changes(recipe),
        "hyperparameters": _mapping(recipe.info.fill(recipe.loss_kwargs)),
        "reference": _reference(recipe) if recipe.info.needs_reference else "none",
    }


def _changes(recipe: Any) -> dict[str, str]:
    found = objective.changes(recipe.effective)
    return {"changed by": "; ".join(found)} if found else {}


def online(recipe: Any) -> dict[str, str]:
    effective = recipe.effective
    generations, epochs = effective("num_generations"), effective("num_iterations")
    step = effective("per_device_train_batch_size") * effective("gradient_accumulation_steps")
    return {
        "trainer": recipe.method.title,
        **_declared(recipe),
        "rewards": _rewards(recipe),
        "data": f"{_dataset(recipe)}, prompts",
        "pairs": f"best and worst of {generations} completions per prompt, {count(step // generations, 'pairs')} per step and process, "
        f"{_epochs(epochs)} per rollout",
    }


def ppo(recipe: Any) -> dict[str, str]:
    effective = recipe.effective
    kl, gradient = kl_in_words(effective)
    epochs = effective("num_iterations")
    return {
        "trainer": recipe.method.title,
        "rewards": _rewards(recipe),
        "KL": kl,
        "KL gradient": gradient,
        "data": f"{_dataset(recipe)}, prompts",
        "reference": _reference(recipe),
        "rollout": f"{_completions(effective('num_generations'))} per prompt, {_epochs(epochs)} per rollout",
    }


def _epochs(count: float) -> str:
    return f"{count:g} epoch{'s' * (count != 1)}"


def _completions(count: int) -> str:
    return f"{count} completion{'s' * (count != 1)}"


def _rewards(recipe: Any) -> str:
    adapter = [f"the adapter {recipe.get('reward_adapter')}"] if recipe.get("reward_adapter") else []
    return ", ".join([*(recipe.get("reward_funcs") or []), *adapter])


def without_loss(recipe: Any) -> dict[str, str]:
    return {
        "trainer": recipe.method.objective,
        **_changes(recipe),
        "data": f"{_dataset(recipe)}, {recipe.method.reads}",
    }


def _dataset(recipe: Any) -> str:
    if mixture := recipe.get("datasets"):
        return " + ".join(entry["path"] for entry in mixture)
    return f"{recipe.get('dataset_name')} [{recipe.effective('dataset_train_split')}], {_looked_at(recipe)}"


def _looked_at(recipe: Any) -> str:
    """How much of the data was read for the check; `trl-ext data` reads all of it."""
    path = Path(recipe.get("dataset_name"))
    if recipe.get("dataset_name") == EMBEDDED:
        return "comes with trl-ext"
    if (read := extent(path)) is None:
        return "not read"
    return f"{read} by this check; a run streams it" if recipe.get("dataset_streaming") else read


def _weights(recipe: Any) -> str:
    if recipe.get("load_in_4bit"):
        twice = ", double quantisation" if recipe.get("use_bnb_nested_quant") else ""
        return f"4 bits ({recipe.effective('bnb_4bit_quant_type')}{twice})"
    return "8 bits" if recipe.get("load_in_8bit") else "not quantised"


def _model(recipe: Any) -> str:
    """The model whose weights are loaded: of an adapter, its base."""
    folder = _continued(recipe)
    name = recipe.get("model_name_or_path") if folder is None else str(adapter.base_of(folder))
    return EMBEDDED if name == str(demo.MODEL) else name


def _continued(recipe: Any) -> Path | None:
    """The folder of the adapter whose training continues."""
    name = recipe.get("model_name_or_path")
    return Path(name).expanduser() if adapter.is_continued(name) else None


def _adapter(recipe: Any) -> str:
    folder, dtype = _continued(recipe), recipe.effective("lora_dtype") or "float32"
    if folder is not None:
        return f"the one in {folder} is trained further: {adapter.in_words(adapter.config(folder))}, {dtype}"
    if not recipe.get("use_peft"):
        return "none; all weights are trained"
    targets = recipe.get("lora_target_modules") or ["the model's default layers"]
    return f"LoRA, rank {recipe.effective('lora_r')}, alpha {recipe.effective('lora_alpha')}, {dtype}, on {', '.join(targets)}"


def _reference(recipe: Any) -> str:
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
    alpha, steps = recipe.effective("ref_model_mixup_alpha"), recipe.effective("ref_model_sync_steps")
    return f"{what}, updated every {count(steps, 'steps')} to {alpha:g}·policy + {1 - alpha:g}·reference"


def _chat_template(recipe: Any) -> str:
    path = recipe.get("chat_template_path")
    model, revision = recipe.get("model_name_or_path"), recipe.get("model_revision")
    template = chat_template.from_file(path) if path else chat_template.of_model(model, revision)
    name = None if recipe.get("datasets") else recipe.get("dataset_name")
    columns, format = recipe.get("dataset_columns"), recipe.effective("dataset_format")
    sentence = outlook(recipe.apply_chat_template, template, name, columns, format)
    return sentence.removeprefix("Chat template: ").rstrip(".")


def _warmup(recipe: Any) -> str:
    steps = recipe.effective("warmup_steps")
    if not steps:
        return "no warm-up"
    return f"warm-up over {steps:.0%} of the steps" if steps < 1 else f"warm-up over {count(int(steps), 'steps')}"


def _mapping(values: dict[str, Any]) -> str:
    return (
        ", ".join(
            f"{key}: {{{_mapping(value)}}}" if isinstance(value, dict) else f"{key} {plain(value)}"
            for key, value in values.items()
            if value is not None
        )
        or "none"
    )
