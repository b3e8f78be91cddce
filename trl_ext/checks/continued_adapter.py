"""Rules about a recipe whose model is the folder of an adapter: training continues that adapter on its own base."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.checks.adapter import OF_AN_ADAPTER
from trl_ext.checks.rule import note, problem
from trl_ext.checks.settings import Settings
from trl_ext.methods import Method
from trl_ext.model_files import adapter, adapter_types, fit, quantised, task, tokenizer
from trl_ext.model_files import model as model_folder
from trl_ext.model_files.adapter_types import Use

FIELDS = {
    "lora_r": "r", "lora_modules_to_save": "modules_to_save", "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters", "lora_task_type": "task_type",
}  # fmt: skip
"""PEFT's name of a setting of a new adapter, where it differs."""


def _reads_the_head(method: Method) -> bool:
    return not method.trains_scores


@problem("model_name_or_path", applies_to=_reads_the_head, recipe_only=True)
def files_of_the_adapter(s: Settings) -> Iterator[str]:
    """Configuration, base, and whether the two fit. Weights that are missing do not stop a plan; `validate` reports them."""
    if (folder := _folder(s)) is None:
        return
    if why := model_folder.adapter_problem(folder):
        yield why
        return
    base = adapter.local_base(folder)
    if base is not None and (why := fit.problem(folder, base) or tokenizer.problem(folder, base)):
        yield why


@problem("model_name_or_path", "model_revision", applies_to=_reads_the_head, recipe_only=True)
def exactly_continued(s: Settings) -> Iterator[str]:
    """Types and initialisations whose training cannot continue exactly."""
    content = _content(s)
    if not content or task.of_adapter(content):  # the latter is judged by `trl_ext.checks.task`
        return
    stored = quantised.of_model(s["model_name_or_path"], s["model_revision"])
    use = Use(
        is_continued=True,
        needs_reference=s.method.may_need_reference,
        shares_base=s.method.samples_completions,
        is_quantised=bool(s["load_in_4bit"] or s["load_in_8bit"] or (stored and stored.stays_quantised)),
    )
    if (sentences := adapter_types.problem(content, use)) is not None:
        yield f"{s.where('model_name_or_path')} is {_folder(s)}. {sentences}"


@problem("model_name_or_path", applies_to=_reads_the_head, recipe_only=True)
def adapter_on_the_head(s: Settings) -> Iterator[str]:
    folder, content = _folder(s), _content(s)
    if folder is None or not (on := _on_the_head(folder, content)):
        return
    yield (
        f"{s.where('model_name_or_path')} is an adapter with {on}. The head's weight is read directly to compute "
        "log-probabilities, so this part would be left out and never be trained. Merge the adapter into its base "
        f"(`trl-ext merge {folder} --output DIR`) and train a new adapter on the result."
    )


@problem("model_name_or_path", "use_vllm", recipe_only=True)
def weights_for_vllm(s: Settings) -> Iterator[str]:
    """As `trl_ext.trainers.rollout.vllm_weights.check`."""
    content = _content(s)
    is_plain = (
        content.get("peft_type") == "LORA" and not content.get("use_dora") and not content.get("target_parameters")
    )
    if content and s["use_vllm"] and not is_plain:
        yield (
            f"{s.where('use_vllm')} needs the policy as plain weights, which can be built from plain LoRA only, and the "
            f"adapter in {_folder(s)} is {adapter.in_words(content)}. Remove `use_vllm`."
        )


@problem("model_name_or_path", "sync_ref_model", applies_to=lambda method: method.reads_preferences, recipe_only=True)
def refresh_of_plain_lora(s: Settings) -> Iterator[str]:
    """As `trl_ext.reference.moving.unmixable`, which judges the adapter itself."""
    content = _content(s)
    more = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias", "use_qalora")
    if content and s["sync_ref_model"] and (content.get("peft_type") != "LORA" or any(map(content.get, more))):
        yield (
            f"{s.where('sync_ref_model')} mixes the matrix products of plain LoRA adapters, and the adapter in {_folder(s)} "
            f"is {adapter.in_words(content)}. Remove `sync_ref_model`."
        )


@note("model_name_or_path", *OF_AN_ADAPTER, recipe_only=True)
def settings_of_a_new_adapter(s: Settings) -> Iterator[str]:
    content = _content(s)
    for key in OF_AN_ADAPTER if content else ():
        ours, given = s[key], content.get(FIELDS.get(key, key))
        if key not in s or ours == given or (not ours and not given):
            continue
        if isinstance(ours, list) and isinstance(given, list | str):
            ours, given = _names(ours), _names([given] if isinstance(given, str) else given)
            if ours is None or given is None or ours == given:
                continue
        is_absent = given is None or given is False or given == []
        has = f"is {adapter.title(content)} without it" if is_absent else f"has {given}"
        yield (
            f"{s.where(key)} is {ours} and has no effect: training continues the adapter in {_folder(s)}, which {has}."
        )


def _folder(s: Settings) -> Path | None:
    """The folder of the adapter that is continued; `None` if the recipe starts from a model."""
    name = s["model_name_or_path"]
    folder = Path(name).expanduser() if isinstance(name, str) and name else None
    return folder if folder is not None and adapter.is_in(folder) else None


def _content(s: Settings) -> dict[str, Any]:
    folder = _folder(s)
    return {} if folder is None else adapter.config(folder)


def _names(names: list) -> str | None:
    """Sorted names; `None` for `all-linear` and patterns, which PEFT writes out when it saves an adapter."""
    if not all(str(name).replace(".", "_").isidentifier() for name in names):
        return None
    return ", ".join(sorted({str(name).rpartition(".")[2] for name in names}))


def _on_the_head(folder: Path, content: dict[str, Any]) -> str | None:
    """What an adapter has on the head, as a noun phrase."""
    on = [key for key in adapter.shapes(folder) if ".lm_head." in key]
    if any(".lora_" in key for key in on) or "lm_head" in adapter.listed(content.get("target_modules")):
        return f"{adapter.title(content)} on lm_head"
    is_tied = any("trainable_tokens_delta" in key for key in on) or (
        adapter.trained_tokens(content) and (base := adapter.local_base(folder)) is not None and fit.is_tied(base)
    )
    return "trained tokens, and its base uses the embeddings as its head" if is_tied else None
