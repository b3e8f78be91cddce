"""Build the trainer of a recipe from the parts that the other modules of this package make.

Data is read first, because its errors are found fastest, and weights are loaded last.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import is_conversational

from trl_ext.build import dataset, template
from trl_ext.build.config import training_config
from trl_ext.build.doubled import without_doubled
from trl_ext.build.dtypes import precision
from trl_ext.build.duration import count_steps
from trl_ext.build.model import load_policy, model_path, require_model_arguments, require_policy
from trl_ext.build.refusals import as_user_errors
from trl_ext.build.rewards import load as load_reward
from trl_ext.build.schedule import require_schedule
from trl_ext.build.tokenizer import load_tokenizer, model_files_of
from trl_ext.checks import reward_names
from trl_ext.checks.kl import kl_in_words
from trl_ext.data.examples import Examples
from trl_ext.data.template_choice import SETTING
from trl_ext.inspection import check
from trl_ext.inspection.evaluation import before_evaluation
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.model_files import model as model_folder
from trl_ext.model_files.available import require_model
from trl_ext.recipe import Recipe
from trl_ext.support import terminal
from trl_ext.support.errors import UserError
from trl_ext.trainers.common import provenance
from trl_ext.trainers.monitoring.callback import Watch
from trl_ext.trainers.monitoring.metrics_log import LogTheLastStep, MetricsFile
from trl_ext.trainers.monitoring.progress import MarginProgress, ProgressLines
from trl_ext.trainers.ppo.checks import SettingsWarning
from trl_ext.trainers.rollout import reward_columns

if TYPE_CHECKING:
    from trl_ext.build.shared_base import SharedBase


@dataclass
class Built:
    """A trainer ready to train.

    Attributes:
        trainer: The trainer.
        output_dir: Its run directory.
        statements: Sentences for the user.
        details: Sentences for the log of the run.
        settled: Settings of the recipe as they were settled while the trainer was built, for the run's resolved recipe.
    """

    trainer: Any
    output_dir: Path
    statements: list[str]
    details: list[str] = field(default_factory=list)
    settled: dict[str, Any] = field(default_factory=dict)


def build_trainer(
    recipe: Recipe, output_dir: Path, base: SharedBase | None = None, checkpoint: str | None = None
) -> Built:
    """Build the trainer of a recipe.

    Args:
        recipe: A loaded recipe.
        output_dir: Run directory; metrics and checkpoints go there.
        base: Lends the base model if several trainers share one; otherwise it is loaded.
        checkpoint: The checkpoint training will resume from; refused early if it was written with other settings.

    Raises:
        UserError: Data, tokenizer or settings that cannot work, before any weights are loaded where possible.
    """
    statements: list[str] = []
    if problem := model_folder.problem(model_path(recipe)):
        raise UserError(problem)
    require_policy(recipe)
    chosen = precision(recipe)
    args = training_config(recipe, output_dir, chosen)
    if checkpoint is not None:
        provenance.refuse_other_settings(Path(checkpoint), args)
    tokenizer = functools.cache(lambda: load_tokenizer(recipe, statements))
    given = dataset.read(recipe, args, statements, tokenizer=tokenizer)
    processing_class = tokenizer()
    template.check_template(recipe, args, processing_class, given.train)
    details = [f"Precision: {chosen.reason}."]
    statements += template.on_templates(recipe, args, processing_class, given.train)
    model_files = model_files_of(recipe, processing_class)
    given = without_doubled(recipe.method, args, given, processing_class, model_files, statements)
    sources = load_rewards(recipe, statements)
    if problem := reward_columns.problem(sources.get("reward_funcs", []), args, given.train, given.evaluation):
        raise UserError(problem)
    is_chat = is_conversational(next(iter(given.train), {}))
    train = _check_data(recipe, args, given, processing_class, model_files, statements)
    evaluation = before_evaluation(recipe.method, given, processing_class, args, model_files, statements)
    require_schedule(args, count_steps(recipe.method, args, train, evaluation))
    require_model_arguments(recipe, args)
    model, adapter = load_policy(recipe, args, chosen, statements, base)
    with as_user_errors(recipe, args), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=SettingsWarning)  # the recipe's notes repeat them
        trainer = recipe.method.classes()[0](
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=processing_class,
            **sources,
            **adapter,
        )
    _set_card_facts(trainer, recipe, is_chat)
    _add_callbacks(trainer, recipe, output_dir)
    return Built(trainer, output_dir, statements, details, template.recorded(recipe, is_chat))


def load_rewards(recipe: Recipe, statements: list[str]) -> dict[str, Any]:
    """The `reward_funcs` argument of trainers that sample completions; empty for other trainers."""
    if not recipe.method.samples_completions:
        return {}
    names = recipe.get("reward_funcs") or []
    models = [source.place for source in map(reward_names.parse, names) if source.kind == "model"]
    statements += filter(None, map(require_model, models))
    # The recipe's notes have announced the user's own code already, before it is run here.
    statements += [reward_names.statement(name) for name in names if not reward_names.is_users_code(name)]
    if recipe.get("reward_adapter"):
        statements.append(f"Reward: the adapter {recipe.get('reward_adapter')} on the policy's base.")
    if recipe.method.has_kl and recipe.needs_reference:
        kl, gradient = kl_in_words(recipe.effective)
        statements.append(f"KL: {kl}; its gradient: {gradient}.")
    return {"reward_funcs": [load_reward(name) for name in names]}


def _check_data(
    recipe: Recipe, args: Any, given: Examples, processing_class: Any, model: ModelFiles, statements: list[str]
) -> Any:
    """The training data for the trainer. UserError if nothing can be learned from it."""

    def read_first(first: int) -> Examples:
        start = dataset.read(recipe, args, [], first, lambda: processing_class)
        return without_doubled(recipe.method, args, start, processing_class, model, [])

    return check.before_training(recipe.method, given, processing_class, args, model, statements, read_first)


def _set_card_facts(trainer: Any, recipe: Recipe, is_chat: bool) -> None:
    """Name data, recipe, use of the chat template and, for the embedded model, its name in place of its path on the card."""
    trainer.card_facts = {"dataset": recipe.get("dataset_name"), "recipe": recipe.name}
    trainer.card_facts[SETTING] = str(is_chat).lower()
    if recipe.get("model_name_or_path") != model_path(recipe):
        trainer.card_facts["model"] = recipe.get("model_name_or_path")


def _add_callbacks(trainer: Any, recipe: Recipe, output_dir: Path) -> None:
    """Replace transformers' progress callbacks by those that show and write what a run logs."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(MarginProgress)
    elif "disable_tqdm" not in recipe.explicit and not terminal.is_quiet():
        trainer.add_callback(ProgressLines)
    trainer.add_callback(LogTheLastStep)
    trainer.add_callback(MetricsFile(trainer, output_dir / "metrics.jsonl"))
    trainer.add_callback(Watch(trainer, output_dir / "metrics.jsonl"))
