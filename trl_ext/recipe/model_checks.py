"""What can be known to be wrong about the model of a recipe, its adapter and its reference before any weights are read."""

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.recipe import schema
from trl_ext.recipe.lora_targets import lora_parameters, lora_targets
from trl_ext.recipe.paths import absent, is_path
from trl_ext.recipe.renamed_keys import line
from trl_ext.recipe.settings import Settings
from trl_ext.support import messages


def model(s: Settings) -> Iterator[str]:
    name = s["model_name_or_path"]
    if not name and "model_name_or_path" in s.meant:
        return
    if not name:
        yield (
            "`model_name_or_path` is missing: give a Hub name (org/name), a local folder, or 'embedded' for "
            "the small model that comes with trl-ext."
        )
        return
    if name == EMBEDDED:
        return
    path = Path(name).expanduser()
    where = s.where("model_name_or_path")
    if path.is_file():
        yield f"{where} is the file {name}: name the folder that holds config.json and the weights."
    elif path.is_dir() and not any((path / file).exists() for file in ("config.json", adapter_folder.CONFIG)):
        inside = sorted(file.parent for file in path.glob("*/*config.json"))
        hint = f"did you mean {inside[-1]}?" if inside else "name the folder a model was saved in."
        yield f"{where} is the folder {name}, which holds no config.json: {hint}"
    elif not path.exists() and is_path(name):
        yield f"{where} is {name}, and {absent(path, 'folder')}"


def quantisation(s: Settings) -> Iterator[str]:
    if s["load_in_4bit"] and s["load_in_8bit"]:
        yield f"{s.named('load_in_4bit', 'load_in_8bit')} are both true: keep one of them."
    for key in ("load_in_4bit", "load_in_8bit"):
        if s[key] and not s["use_peft"]:
            yield (
                f"{s.where(key)} freezes the base model, so nothing would be trained: "
                f"add {line('use_peft', True)} to train a LoRA on it."
            )


def adapter(s: Settings) -> Iterator[str]:
    keys = [key for key in schema.model() if key.startswith(("lora_", "use_rslora", "use_dora"))]
    ignored = [key for key in s if key in keys and s[key]]
    if ignored and "use_peft" not in s:
        yield f"{s.named(*ignored)} would be ignored without an adapter: add {line('use_peft', True)}."
    if _targets_the_head(s["lora_target_modules"] or []):
        yield (
            f"{s.where('lora_target_modules')} includes lm_head, whose weight is read directly when "
            "log-probabilities are computed, so a LoRA on it would never be trained: remove lm_head "
            f"({line('lora_target_modules', 'all-linear')} is every other linear layer)."
        )


def precision(s: Settings) -> Iterator[str]:
    if s["bf16"] and s["fp16"]:
        yield f"{s.named('bf16', 'fp16')} are both true: keep bf16 (Ampere GPUs and newer) or fp16."


def attention(s: Settings) -> Iterator[str]:
    given = s["attn_implementation"]
    names = attention_names()
    if given and "/" not in given and given.removeprefix("paged|") not in names:
        yield (
            f"{s.where('attn_implementation')} is {given}, which transformers does not have: {messages.one_of(given, names)} "
            "Others are kernels on the Hub (org/name)."
        )


@lru_cache
def attention_names() -> tuple[str, ...]:
    """The implementations of attention the installed transformers has by name, from its source."""
    package = importlib.util.find_spec("transformers").submodule_search_locations[0]
    text = Path(package, "modeling_utils.py").read_text(encoding="utf-8")
    mapping = text.partition("class AttentionInterface")[2].partition("_global_mapping = {")[2].partition("}")[0]
    return ("eager", *re.findall(r'"(\w+)":', mapping))


def reference_refresh(s: Settings) -> Iterator[str]:
    where = s.where("sync_ref_model")
    if not s["sync_ref_model"]:
        if ignored := [key for key in ("ref_model_sync_steps", "ref_model_mixup_alpha") if key in s]:
            yield f"{s.named(*ignored)} would be ignored: add {line('sync_ref_model', True)}."
        return
    if s["precompute_ref_log_probs"]:
        yield (
            f"{s.named('sync_ref_model', 'precompute_ref_log_probs')} are both true, and values computed before the run "
            "are of no use to a reference that changes during it: keep one of them."
        )
    if s["ref_model_mixup_alpha"] == 0:
        yield (
            f"{s.where('ref_model_mixup_alpha')} is 0, which leaves the reference where it is: give up to 1 (a copy of "
            f"the policy), or remove {where}."
        )
    for key in ("use_dora", "lora_modules_to_save"):
        if s["use_peft"] and s[key]:
            yield f"{where} mixes plain LoRA adapters, and {s.where(key)} makes it more than one: keep one of them."


def base_of_reward(s: Settings) -> Iterator[str]:
    folder = Path(s["model_name_or_path"] or "").expanduser()
    if adapter_folder.is_in(folder):
        yield (
            f"{s.where('model_name_or_path')} is an adapter, and PPO puts a reward adapter on the bare base: name its base, "
            f"{adapter_folder.base_of(folder)}."
        )


def continued_adapter(s: Settings) -> Iterator[str]:
    """Notes on settings of a new adapter in a recipe that goes on from one."""
    folder = Path(s["model_name_or_path"] or "")
    theirs = adapter_folder.config(folder)
    for key, field in (("lora_r", "r"), ("lora_alpha", "lora_alpha"), ("lora_target_modules", "target_modules")):
        ours, given = s[key], theirs.get(field)
        if isinstance(ours, list) and isinstance(given, list):
            # `all-linear` and patterns are written out in what PEFT saves.
            are_names = all(str(name).isidentifier() for name in [*ours, *given])
            ours, given = (", ".join(sorted(map(str, names))) if are_names else None for names in (ours, given))
        if key in s and isinstance(given, type(ours)) and ours != given:
            yield (
                f"{s.where(key)} is {ours} and has no effect: the adapter in {folder}, which is continued, has {given}."
            )


def _targets_the_head(targets: list[str]) -> bool:
    """Whether LoRA targets, names or ends of names, include lm_head; a single one may be a pattern."""
    if any(str(target).rpartition(".")[2] == "lm_head" for target in targets):
        return True
    try:
        return len(targets) == 1 and re.fullmatch(str(targets[0]), "lm_head") is not None
    except re.error:
        return False


CHECKS = (model, quantisation, adapter, lora_targets, lora_parameters, precision, attention, reference_refresh)
