"""Rules about the LoRA adapter that is trained."""

import re
from collections.abc import Iterator
from pathlib import Path

from trl_ext.checks.advantage import declared
from trl_ext.checks.rule import is_policy_gradient, problem, samples_pairs
from trl_ext.checks.settings import Settings
from trl_ext.model_files import adapter as adapter_folder

OF_AN_ADAPTER = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save",
    "lora_task_type", "use_rslora", "use_dora",
)  # fmt: skip
"""Settings that only a new adapter reads."""


@problem("use_peft", "model_name_or_path", *OF_AN_ADAPTER)
def without_adapter(s: Settings) -> Iterator[str]:
    """Of a continued adapter, they are reported by `continued_adapter.settings_of_a_new_adapter`."""
    ignored = [key for key in s if key in OF_AN_ADAPTER and s[key]]
    if ignored and "use_peft" not in s and not adapter_folder.is_continued(s["model_name_or_path"]):
        yield f"{s.named(*ignored)} would be ignored without an adapter: add `use_peft: true`."


@problem("lora_target_modules", "model_name_or_path")
def head(s: Settings) -> Iterator[str]:
    is_new = not adapter_folder.is_continued(s["model_name_or_path"])
    if is_new and _targets_the_head(s["lora_target_modules"] or []):
        yield (
            f"{s.where('lora_target_modules')} includes lm_head. Its weight is read directly to compute log-probabilities, so "
            "a LoRA on it would never be trained. Remove lm_head (`lora_target_modules: all-linear` selects every other "
            "linear layer)."
        )


@problem("use_peft", "model_name_or_path", applies_to=samples_pairs)
def shared_base(s: Settings) -> Iterator[str]:
    """Trainers that sample get their adapter as an argument instead (`trl_ext.trainers.rollout.checks`)."""
    yield from _on_one_base(s, "policy and reference")


@problem("use_peft", "model_name_or_path", "advantage", applies_to=is_policy_gradient)
def shared_base_of_a_policy_gradient(s: Settings) -> Iterator[str]:
    info = declared(s)
    has_critic = info is not None and info.needs_critic
    yield from _on_one_base(s, "policy, reference and critic" if has_critic else "policy and reference")


def _on_one_base(s: Settings, roles: str) -> Iterator[str]:
    folder = Path(s["model_name_or_path"] or "").expanduser()
    if not s["use_peft"] and not adapter_folder.is_in(folder):
        yield (
            f"`trainer: {s.method.name}` keeps {roles} on one base model, distinguished by adapters. Add `use_peft: true`, or "
            "set `model_name_or_path` to the folder of an adapter to continue from."
        )


def _targets_the_head(targets: list[str]) -> bool:
    """Whether LoRA targets, names or ends of names, include lm_head; a single one may be a pattern."""
    if any(str(target).rpartition(".")[2] == "lm_head" for target in targets):
        return True
    try:
        return len(targets) == 1 and re.fullmatch(str(targets[0]), "lm_head") is not None
    except re.error:
        return False
