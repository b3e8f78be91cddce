"""Describe what a recipe asks for, a line per subject, defaults included."""

from pathlib import Path
from typing import Any

from trl_ext import methods
from trl_ext.checks import evaluation_parts
from trl_ext.data.files.problems import extent
from trl_ext.data.formats.pairing import Pairing
from trl_ext.data.recognise_file import first_pairs, recognise_file
from trl_ext.data.template_outlook import outlook
from trl_ext.demo import EMBEDDED
from trl_ext.model_files import chat_template
from trl_ext.recipe import in_words
from trl_ext.support.counts import count


def summary(recipe: Any) -> dict[str, str]:
    """Describe a `trl_ext.recipe.Recipe`: text by subject."""
    return {
        **methods.imported(recipe.method.summary)(recipe),
        **in_words.model_and_adapter(recipe),
        "chat template": _chat_template(recipe),
        **in_words.pace(recipe),
        **({"evaluation": evaluation_parts.in_words(recipe.evaluation)} if recipe.evaluation is not None else {}),
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
        **in_words.loss(recipe),
        "data": f"{_dataset(recipe)}{found}; the loss reads {'pairs' if recipe.paired else 'labelled completions'}",
        **({"pairs": pairs} if pairs else {}),
    }


def online(recipe: Any) -> dict[str, str]:
    effective = recipe.effective
    generations, epochs = effective("num_generations"), effective("num_iterations")
    step = effective("per_device_train_batch_size") * effective("gradient_accumulation_steps")
    return {
        "trainer": recipe.method.title,
        **in_words.loss(recipe),
        "rewards": in_words.rewards(recipe),
        "data": f"{_dataset(recipe)}, prompts",
        "pairs": f"best and worst of {generations} completions per prompt, {count(step // generations, 'pairs')} per step and process, "
        f"{in_words.epochs(epochs)} per rollout",
    }


def ppo(recipe: Any) -> dict[str, str]:
    of_kl = in_words.kl(recipe)
    reference = of_kl.pop("reference")
    said = in_words.advantage(recipe)
    rollout = said.pop("rollout")
    return {
        "trainer": recipe.method.title,
        **said,
        "rewards": in_words.rewards(recipe),
        **of_kl,
        "data": f"{_dataset(recipe)}, prompts",
        "reference": reference,
        "rollout": rollout,
    }


def without_loss(recipe: Any) -> dict[str, str]:
    return {
        "trainer": recipe.method.objective,
        **in_words.changes(recipe),
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


def _chat_template(recipe: Any) -> str:
    path = recipe.get("chat_template_path")
    model, revision = recipe.get("model_name_or_path"), recipe.get("model_revision")
    template = chat_template.from_file(path) if path else chat_template.of_model(model, revision)
    name = None if recipe.get("datasets") else recipe.get("dataset_name")
    columns, format = recipe.get("dataset_columns"), recipe.effective("dataset_format")
    sentence = outlook(recipe.apply_chat_template, template, name, columns, format)
    return sentence.removeprefix("Chat template: ").rstrip(".")
