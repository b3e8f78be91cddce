"""Draft a recipe: read the data, plan the memory, choose the settings, and write them down with the reasons."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext import planner
from trl_ext.build import data_size
from trl_ext.build.config import training_config
from trl_ext.build.data_size import DataSize
from trl_ext.drafting import choices, usual
from trl_ext.drafting.page import Section, comment, text
from trl_ext.model_files import adapter
from trl_ext.planner import VramPlan
from trl_ext.planner.cards import Chosen
from trl_ext.planner.memory import GIB
from trl_ext.recipe import Recipe, load
from trl_ext.rl import policy_gradient
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError

UNQUANTISED = 0.25
"""Share of the card that the weights may take in 16 bits; larger models are loaded in 4 bits."""
NOT_CUT = 1_000_000
"""A length that cuts nothing, while lengths are measured."""


@dataclass
class Draft:
    """A drafted recipe.

    Attributes:
        text: The file.
        recipe: The same, loaded and checked.
        size: The data it was made for.
        plan: The memory plan on the card.
        duration: Epochs, steps and held-out rows.
    """

    text: str
    recipe: Recipe
    size: DataSize
    plan: VramPlan
    duration: choices.Duration


def draft(path: Path, model: str, data: str, card: Chosen, kind: dict[str, Any], given: dict[str, Any]) -> Draft:
    """Draft a recipe for a model and data on a card.

    Args:
        path: Where the recipe will be; nothing is written.
        model: Folder, name on the Hub, or `embedded`.
        data: File, folder, name on the Hub, or `embedded`.
        card: The card to plan for.
        kind: What is trained, from `kind_of`.
        given: Keys that were given as flags; they are written as they are.

    Raises:
        UserError: Model or data cannot be read, no recipe for them fits the card, or a given key cannot work.
    """
    values = {"model_name_or_path": model, "dataset_name": data} | kind | given
    values = _adapter(values) | values
    first = _loaded(values)
    limit = first.method.length_key
    uncut = first.method.samples_completions or limit in given
    measured = first if uncut else _loaded(values | {limit: NOT_CUT})
    size = _measured(measured)
    if first.method.reads == "demonstrations" and {"messages", "conversations"} & set(size.columns):
        values, size = _assistant_only(values, measured, size)
    return _Drafting(path, card, given, values, size).draft()


def _measured(recipe: Recipe) -> DataSize:
    with tempfile.TemporaryDirectory() as folder:
        return data_size.measure(recipe, training_config(recipe, Path(folder)))


def _assistant_only(values: dict[str, Any], recipe: Recipe, size: DataSize) -> tuple[dict[str, Any], DataSize]:
    """The values with a loss on the assistant's messages only, if the chat template can mark them."""
    if "assistant_only_loss" in values:
        return values, size
    try:
        marked = _measured(_loaded(recipe.values | {"assistant_only_loss": True}))
    except (UserError, ValueError):  # TRL raises a ValueError for a template that it does not know
        return values, size
    return values | {"assistant_only_loss": True}, marked


def _adapter(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a new LoRA; none if the model is an adapter that is continued, or no adapter is wanted."""
    is_continued = adapter.is_in(Path(str(values["model_name_or_path"])).expanduser())
    if is_continued or values.get("use_peft") is False:
        return {}
    return {
        "use_peft": True,
        "lora_r": usual.RANK,
        "lora_alpha": usual.ALPHA,
        "lora_dropout": 0.0,
        "lora_target_modules": "all-linear",
    }


def _loaded(values: dict[str, Any], content: str = "{}", name: str = "draft") -> Recipe:
    """A file with values on top of it, loaded and checked as a recipe."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.yaml")
        path.write_text(content, encoding="utf-8")
        try:
            return load(path, values)
        except UserError as error:
            raise UserError(error.problems) from None


class _Drafting:
    """The choices, one after the other; each is planned with those before it."""

    def __init__(
        self, path: Path, card: Chosen, given: dict[str, Any], values: dict[str, Any], size: DataSize
    ) -> None:
        self.path, self.card, self.vram, self.given, self.size = path, card, card.memory, given, size
        self.values = dict(values)
        self.recipe = _loaded(self.values)
        self.method = self.recipe.method

    def draft(self) -> Draft:
        sections = [self._model, self._data, self._objective, self._steps, self._output]
        made = [section() for section in sections]
        known = {key for section in made for key in section.settings}
        made.append(Section(["Given on the command line."], {k: v for k, v in self.given.items() if k not in known}))
        planned = self._plan()
        if not planned.fits and not planned.is_tight:
            needs = f"{planned.model} needs {planned.peak / GIB:.1f} GiB, and {planned.budget:.1f} GiB of {self.card.title} are usable"
            raise UserError(f"No recipe for this model fits: {needs}. Choose a smaller model or a larger card.")
        content = text(self._head(planned), made)
        return Draft(content, _loaded({}, content, self.path.stem), self.size, planned, self.duration)

    def _set(self, section: Section, key: str, value: Any, remark: str = "") -> None:
        """Add a setting: the value given on the command line, or else this one."""
        if key in self.given:
            value, remark = self.given[key], "as given"
        section.put(key, value, remark)
        self.values[key] = value

    def _plan(self, **changes: Any) -> VramPlan:
        self.recipe = _loaded(self.values | changes)
        return planner.plan(self.recipe, vram=self.vram)

    def _model(self) -> Section:
        planned = self._plan()
        self.parameters = planned.parameters
        section = Section([f"The model: {planned.parameters / 1e9:.3g} billion parameters."])
        if planned.parameters < 1e8:
            section.about = [f"The model: {planned.parameters / 1e6:.3g} million parameters."]
        self._set(section, "model_name_or_path", self.values["model_name_or_path"])
        weights = 2 * planned.parameters / GIB
        is_large = weights > UNQUANTISED * self.vram and usual.trains_adapter(self.recipe)
        if (is_large or self.given.get("load_in_4bit")) and not self.given.get("load_in_8bit"):
            why = f"in 16 bits the weights alone would take {weights:.1f} GiB"
            self._set(section, "load_in_4bit", True, why)
            self._set(section, "bnb_4bit_quant_type", "nf4")
            self._set(section, "use_bnb_nested_quant", True, "scales are quantised too")
        elif usual.trains_adapter(self.recipe):
            section.about.append(f"It is not quantised: its weights take only {weights:.2g} GiB in 16 bits.")
        if self.values.get("use_peft"):
            section.put("use_peft", True)
            self._set(section, "lora_r", usual.RANK)
            self._set(
                section, "lora_alpha", usual.ALPHA, "32 for any rank: the best learning rate then hardly depends on it"
            )
            self._set(section, "lora_dropout", 0.0)
            self._set(section, "lora_target_modules", "all-linear")
        elif usual.trains_adapter(self.recipe):
            section.about.append("It is an adapter, which this run continues.")
        return section

    def _data(self) -> Section:
        section = Section([sentence for sentence in self.size.statements if "held out" not in sentence])
        self._set(section, "dataset_name", self.values["dataset_name"])
        self._set(section, "apply_chat_template", "auto")
        for key in ("dataset_columns", "dataset_format", "dataset_config", "dataset_train_split", "dataset_revision"):
            if key in self.given:
                self._set(section, key, None)
        key = self.method.length_key
        if self.method.samples_completions:
            chosen = choices.completion_length(self.size)
            section.about.append(
                f"Prompts have {self.size.percentile(0.5):,} tokens (median), at most {int(self.size.sequences.max()):,}."
            )
            self._set(section, key, chosen, "tokens of a sampled completion; longer ones are cut")
            return section
        most = min(
            self._plan(**{key: choices.SHORTEST}).longest_sequence or choices.SHORTEST, self.size.positions or 2**24
        )
        self._set(section, key, choices.length(self.size, most))
        section.about += choices.about_length(self.size, self.method, self.values[key])
        return section

    def _objective(self) -> Section:
        section, recipe = Section(), self.recipe
        if self.method.has_loss:
            info = recipe.info
            section.about = [f"{_capital(self.method.title)}: {recipe.title}. {info.formula}"]
        else:
            section.about = [f"{_capital(self.method.objective or self.method.title)}."]
        for key in ("trainer", "loss", "reward_funcs", "reward_adapter", "assistant_only_loss"):
            if key in self.values:
                section.put(key, recipe.get(key, self.values[key]))
        if isinstance(recipe.loss, str):
            alternatives = {key for group in info.exclusive for key in group[1:]}
            for key in ("beta", *info.hyperparameters):
                value = info.hyperparameters.get(key)
                is_shown = key in self.given or (value is not None and key in SHOWN and key not in alternatives)
                if is_shown and key not in section.settings and key in BALANCE:
                    self._set(section, key, "auto", "the rarer class counts as much as the other")
                elif is_shown and key not in section.settings:
                    self._set(section, key, value, "the default of the loss")
        rate = usual.rate(recipe, self.parameters)
        self._set(section, "learning_rate", rate.value, rate.why)
        if self.method.samples_completions and recipe.effective("advantage") == "gae":
            self._set(section, "critic_learning_rate", usual.CRITIC * self.values["learning_rate"])
        self._set(section, "lr_scheduler_type", "cosine")
        self._set(section, "warmup_steps", 0.1, "share of the steps")
        return section

    def _completions_per_prompt(self) -> int:
        """A step holds all completions of a prompt; losses on pairs choose from four unless they are told another number."""
        if self.method.has_loss:
            return self.given.get("num_generations") or 4
        return policy_gradient.settled(self.recipe.effective)["num_generations"]

    def _steps(self) -> Section:
        size, samples = self.size, self.method.samples_completions
        examples = min(size.examples, self.given.get("max_train_samples") or size.examples)
        each = choices.examples_per_step(examples)
        generations = self._completions_per_prompt() if samples else 1
        per_step = max(each, generations)
        section = Section()
        if self.method.cuts_rows:
            micro = min(4, per_step)
        else:
            micro = choices.micro_batch(per_step, generations, self._fits(per_step))
        self._set(section, "per_device_train_batch_size", micro)
        accumulated = max(per_step // self.values["per_device_train_batch_size"], 1)
        self._set(section, "gradient_accumulation_steps", accumulated)
        per_step = self.values["per_device_train_batch_size"] * self.values["gradient_accumulation_steps"]
        if generations > 1:
            why = "best and worst form a pair" if self.method.has_loss else "they are compared with each other"
            self._set(section, "num_generations", generations, f"completions of a prompt; {why}")
        if self.method.cuts_rows:
            planned = self._plan()
            self._set(
                section, "row_tokens", planned.row_tokens, "of one forward pass, from the plan; auto measures instead"
            )
        self.duration = choices.duration(examples, per_step // generations)
        if samples:
            self.duration = choices.sampled_duration(examples, per_step // generations)
        if limit := self.given.get("max_steps"):
            self.duration = self.duration._replace(steps=limit, every=max(limit // choices.EVALUATIONS, 1))
            self._set(section, "max_steps", limit)
        else:
            self._set(section, "num_train_epochs", self.duration.epochs)
            section.about = [self._about_steps(per_step, examples)]
        self._set(section, "logging_steps", max(self.duration.steps // 50, 1))
        return section

    def _fits(self, per_step: int) -> Callable[[int], bool]:
        def fits(micro: int) -> bool:
            sizes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": per_step // micro}
            return self._plan(**sizes).fits

        return fits

    def _about_steps(self, per_step: int, examples: int) -> str:
        epochs = self.duration.epochs
        held_out = f" ({self.duration.held_out:,} of them are held out)" if self.duration.held_out else ""
        unit = "completions" if self.method.samples_completions else self.method.unit
        return (
            f"{epochs} epoch{'s' * (epochs > 1)} of {examples:,} {self.method.unit}{held_out}, {per_step} {unit} per step: about "
            f"{count(self.duration.steps, 'steps')}."
        )

    def _output(self) -> Section:
        section = Section()
        if self.duration.held_out:
            self._set(section, "eval_size", self.duration.held_out, "rows held out of the data for evaluation")
            self._set(section, "eval_strategy", "steps")
            self._set(section, "eval_steps", self.duration.every)
            if not self.method.cuts_rows:
                self._set(section, "per_device_eval_batch_size", self.values["per_device_train_batch_size"])
        self._set(section, "save_strategy", "steps")
        self._set(section, "save_steps", self.duration.every)
        self._set(section, "save_total_limit", 2)
        self._set(section, "output_dir", f"runs/{self.path.stem}", "a second run needs another one: --output_dir DIR")
        return section

    def _head(self, planned: VramPlan) -> list[str]:
        fits = "" if planned.fits else " It fits only if nothing else uses the card."
        sentences = [
            f"trl-ext run {self.path}",
            "",
            f"Hardware: {self.card.title}.",
            "Measured peak and time: not measured yet.",
            f"Planned peak: {planned.peak / GIB:.1f} GiB; {planned.budget:g} GiB of {planned.vram:g} are usable.{fits} "
            f"`trl-ext plan {self.path}` shows its parts.",
            "",
            f"Written by `trl-ext init`. `trl-ext data {self.path}` shows the rows as the trainer sees them.",
        ]
        return [line for sentence in sentences for line in (comment([sentence]) if sentence else ["#"])]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


BALANCE = ("desirable_weight", "undesirable_weight")
"""Hyperparameters that balance the classes of labelled completions."""
SHOWN = {"beta", "gamma", "gamma_beta_ratio", "cpo_alpha", "average", "label_smoothing", *BALANCE}
"""Hyperparameters that are written even if they have the loss's default."""
