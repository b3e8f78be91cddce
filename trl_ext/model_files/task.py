"""Read what a model or an adapter in a folder was trained for: its language-modelling head, or another one."""

import json
from pathlib import Path
from typing import Any

from trl_ext.model_files import adapter

LANGUAGE_MODEL = "CAUSAL_LM"
REWARD_MODEL = "SEQ_CLS"
HEADS = {"score", "classifier"}
"""Modules that give scores. PEFT saves them whole."""
OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")
"""Ends of architectures without the head of a causal language model."""


def not_a_language_model(folder: Path) -> str | None:
    """What a model or an adapter is, as a noun phrase, if it is not a causal language model; `None` if it is, or is unknown."""
    if adapter.is_in(folder):
        return of_adapter(adapter.config(folder))
    return of_architecture(_architectures(folder))


def is_reward_model(folder: Path) -> bool:
    """Whether a model or an adapter gives scores."""
    if adapter.is_in(folder):
        content = adapter.config(folder)
        return content.get("task_type") == REWARD_MODEL or bool(HEADS & set(content.get("modules_to_save") or ()))
    return any(str(name).endswith(OTHER_HEADS[0]) for name in _architectures(folder))


def of_adapter(config: Any) -> str | None:
    """As `not_a_language_model`, from the content of an adapter's configuration."""
    task = config.get("task_type")
    task = getattr(task, "value", task)
    if HEADS & set(config.get("modules_to_save") or ()):
        return "an adapter of a reward model (it saves a head that gives scores)"
    if task in (None, LANGUAGE_MODEL):
        return None
    return f"an adapter of a {'reward model' if task == REWARD_MODEL else 'model'} (task_type {task})"


def of_architecture(names: Any) -> str | None:
    """As `not_a_language_model`, from the names of architectures in a model's configuration."""
    found = next((name for name in names or () if str(name).endswith(OTHER_HEADS)), None)
    if found is None:
        return None
    return f"{'a reward model' if found.endswith(OTHER_HEADS[0]) else 'a model'} ({found})"


def _architectures(folder: Path) -> list[Any]:
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures")
    except (OSError, ValueError, AttributeError):
        return []
    return names if isinstance(names, list) else []
