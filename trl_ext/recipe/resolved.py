"""Hold a loaded recipe: what to train, with all settings merged and checked."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trl_ext import losses, methods
from trl_ext.checks.kl import coefficient
from trl_ext.methods import Method
from trl_ext.recipe import names, reader, schema
from trl_ext.recipe.choice.loss import LossName, canonical_loss, loss_title
from trl_ext.recipe.vocabulary import OWN_KEYS, defaults, hyperparameters
from trl_ext.support import atomic

RESOLVED = "recipe.resolved.yaml"
"""Name of the merged recipe in a run directory."""


@dataclass
class Recipe:
    """All settings that somebody set; defaults are not filled in.

    Attributes:
        path: The file that it was read from.
        values: The settings, merged: file < variant of the loss < flags. Always holds `loss`, or `trainer`, or both.
        explicit: Keys of `values` that somebody set.
        loss: Canonical name, or {canonical name: weight}; `None` with a `trainer` that has none.
        loss_kwargs: The hyperparameters of the loss that were set; in a mix, those meant for one part alone
            are a mapping under its name.
        notes: Sentences about settings that are allowed but may not be intended.
        awaits: The note that says what has to be trained before this recipe can run, if anything has.
        precedes_apply_chat_template: Whether it was recorded in a run before the setting of this name existed.
    """

    path: Path
    values: dict[str, Any]
    explicit: set[str]
    loss: LossName | None
    loss_kwargs: dict[str, Any]
    notes: list[str] = field(default_factory=list, compare=False)
    awaits: str | None = field(default=None, compare=False)
    precedes_apply_chat_template: bool = field(default=False, compare=False)

    @cached_property
    def name(self) -> str:
        """The file's name without its ending; for the merged recipe in a run directory, that of the original recipe."""
        if self.path.name == RESOLVED and self.path.is_file():
            with self.path.open(encoding="utf-8") as lines:
                if merged := re.match(r"# (.+) with everything merged\.", next(lines, "")):
                    return Path(merged[1]).stem
        return self.path.stem

    @property
    def word(self) -> str:
        """The word that names it in a command: its path, or the name of a recipe that comes with trl-ext."""
        return names.word(self.path)

    @property
    def trainer(self) -> str | None:
        """The value of `trainer`; `None` where a loss is trained on a dataset of preferences."""
        return self.values.get("trainer")

    @cached_property
    def method(self) -> Method:
        """The kind of training, with everything that depends on it."""
        method = methods.of(self.trainer, is_paired=self.loss is None or self.info.paired)
        return method.with_gold() if self.loss is not None and "gold" in self.info.columns else method

    @property
    def kind(self) -> str:
        """The name of the kind of training: a key of `methods.METHODS`."""
        return self.method.name

    @property
    def title(self) -> str:
        """A short name of what is trained: the loss, or the `trainer` if it has none, with an advantage that is not its default."""
        if self.loss is not None:
            return loss_title(self.loss)
        advantage = self.effective("advantage")
        return self.trainer if advantage == defaults(self.kind).get("advantage") else f"{self.trainer}-{advantage}"

    @property
    def info(self) -> losses.LossInfo | losses.MixInfo:
        """The declaration of the loss, where there is one."""
        return canonical_loss(self.loss)[1]

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities under a reference are computed."""
        if self.method.has_kl:
            return coefficient(self.effective) != 0
        return self.loss is not None and self.info.needs_reference

    @property
    def paired(self) -> bool:
        """Whether it is trained on pairs."""
        return self.method.is_paired

    @property
    def apply_chat_template(self) -> bool | str | None:
        """The value of the setting; `None` for a run that was recorded before it existed."""
        return None if self.precedes_apply_chat_template else self.effective("apply_chat_template")

    def get(self, key: str, default: Any = None) -> Any:
        """The value that was set, else `default`."""
        return self.values.get(key, default)

    def effective(self, key: str) -> Any:
        """The value that was set, else the default of the configuration it goes to, else `None`."""
        return self.values[key] if key in self.values else defaults(self.kind).get(key)

    def sections(self) -> dict[str, dict[str, Any]]:
        """The values, grouped by what they configure.

        ``training`` holds arguments of the trainer's configuration, with the hyperparameters of a loss under
        `loss_kwargs` only; ``model`` those of TRL's `ModelConfig` and of
        `ModelExtras`; ``data`` those of TRL's `ScriptArguments` and `DatasetMixtureConfig` and of
        `DataExtras`; ``env`` environment variables.
        """
        training, model, data = {}, {}, {}
        elsewhere = {*OWN_KEYS, *schema.fields("RewardExtras"), *schema.fields("RunExtras")}
        if self.loss is not None:
            training = {"loss": self.loss, "loss_kwargs": dict(self.loss_kwargs)}
            elsewhere |= {*hyperparameters()}
        for key, value in self.values.items():
            if key in schema.model():
                model[key] = value
            elif key in schema.data():
                data[key] = value
                if key in schema.training(self.kind):  # `chat_template_kwargs` of TRL's trainers that sample
                    training[key] = value
            elif key not in elsewhere:
                training[key] = value
        env = {name: str(value) for name, value in (self.values.get("env") or {}).items()}
        return {"training": training, "model": model, "data": data, "env": env}

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What is evaluated at the end of the run; `None` for nothing, `{}` for what `trl-ext eval` does without flags."""
        return self.values.get("evaluation")

    @property
    def search(self) -> dict[str, Any] | None:
        """What `trl-ext search` varies, and how; `None` if the recipe does not say."""
        return self.values.get("search")

    def digest(self) -> str:
        """Digest of the settings that training depends on; equal for two runs of one recipe with the same flags."""
        values = {key: value for key, value in self.values.items() if key not in schema.fields("RunExtras")}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def dump(self, path: str | Path) -> None:
        """Write the merged settings as a recipe that repeats the run."""
        title = f"# {self.name}.yaml with everything merged. Repeat the run: trl-ext run {path}\n"
        atomic.write_text(Path(path), title + reader.write(self.values))
