"""Judge settings by their values: those of a recipe before torch is imported, and those of a trainer's configuration.

    checks.check(settings)              # sentences about what cannot work
    checks.notes(settings)              # sentences about what works and may not be what was meant
    checks.refuse(config, "ppo")        # ValueError for a configuration that cannot work

Each rule stands once, in the file of its theme, and holds for recipes and configurations alike; `rule` says how one is
declared. Importing the package imports nothing heavy.
"""

import importlib
from typing import Any

from trl_ext.checks.field_types import not_words
from trl_ext.checks.rule import LOSS, RULES, Rule
from trl_ext.checks.settings import ConfigSettings, Settings
from trl_ext.losses import LossInfo, MixInfo
from trl_ext.methods import METHODS
from trl_ext.support.messages import one_line

THEMES = (
    "model", "quantised", "task", "data", "mixture", "first_rows", "chat_template", "rewards", "adapter", "continued_adapter", "lora_targets",
    "precision", "device", "attention", "reference", "humanline", "loss", "advantage", "grpo", "kl", "sampling", "sampling_weights", "generations", "bounds", "learning_rate", "rows", "accumulation", "optimizers",
    "schedules", "evaluation", "evaluation_block", "search_block", "duration",
    "packages", "trackers", "debug", "processes", "requirements", "model_arguments", "dataloader", "launch", "sharding",
    "checkpoints", "unread", "switches",
)  # fmt: skip
"""The files of rules, in the order in which their sentences are reported."""

for _theme in THEMES:  # importing a file registers its rules
    importlib.import_module(f"{__name__}.{_theme}")

__all__ = ["THEMES", "ConfigSettings", "Settings", "check", "notes", "refuse"]


def check(settings: Settings, *, to_train: bool = False) -> list[str]:
    """A sentence for each problem: a setting that cannot work.

    Args:
        settings: Those of a recipe or of a configuration.
        to_train: Also check what training needs on this machine, such as packages and logins.
    """
    return _judge([rule for rule in RULES if not rule.is_note and (to_train or not rule.is_requirement)], settings)


def notes(settings: Settings) -> list[str]:
    """A sentence for each setting that works and may not do what was meant."""
    return _judge([rule for rule in RULES if rule.is_note], settings)


def refuse(config: Any, method: str, loss: LossInfo | MixInfo | None = None) -> None:
    """Refuse a trainer's configuration that cannot work.

    Args:
        config: Its values as the user gave them.
        method: The kind of training, a key of `METHODS`.
        loss: Declaration of the loss once it is settled; then the rules that read it are judged, and no others.

    Raises:
        ValueError: With a sentence for each problem.
    """
    rules = [rule for rule in RULES if not rule.is_note and (LOSS in rule.reads) == (loss is not None)]
    problems = [*not_words(config)] or _judge(rules, ConfigSettings(config, METHODS[method], loss))
    if problems:
        raise ValueError(" ".join(problems))


def _judge(rules: list[Rule], settings: Settings) -> list[str]:
    judged = (rule for rule in rules if rule.is_judged(settings))
    return [one_line(sentence) for rule in judged for sentence in rule.judge(settings)]  # they quote given values
