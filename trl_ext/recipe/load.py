"""Load a recipe: a file and flags, in passes that each run once over all layers, to one `Recipe` or one error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_ext import checks, foreign
from trl_ext.methods import Method
from trl_ext.recipe import names, needs, reader, stages
from trl_ext.recipe.choice.hyperparameters import fit_to_loss, fit_variants, note_reused_hyperparameters
from trl_ext.recipe.choice.loss import Choice, choose_loss, settle_method
from trl_ext.recipe.choice.loss_kwargs import unfold_loss_kwargs
from trl_ext.recipe.choice.method import choose_method
from trl_ext.recipe.choice.reward_model import take_reward_model
from trl_ext.recipe.choice.variants import read_variants
from trl_ext.recipe.layers.entries import merge_entries, take_entries
from trl_ext.recipe.layers.evaluation import read_evaluation
from trl_ext.recipe.layers.layer import Layer, Layers, from_file, from_flags
from trl_ext.recipe.layers.merge import merge_layers
from trl_ext.recipe.layers.search import read_search
from trl_ext.recipe.layers.types import convert_types
from trl_ext.recipe.layers.unknown_keys import drop_misplaced_keys, drop_unknown_keys
from trl_ext.recipe.problems import Problems
from trl_ext.recipe.resolved import RESOLVED, Recipe
from trl_ext.recipe.settings import Settings


def load(path: str | Path, overrides: Mapping[str, Any] | None = None, *, to_train: bool = False) -> Recipe:
    """Read a recipe and check all that can be checked without weights or data.

    Later layers win: the file, the variant of the chosen loss, the overrides.

    Args:
        path: A YAML file of flat keys, or the name of a recipe that comes with trl-ext.
        overrides: Values by key, as flags give them.
        to_train: Also check what training needs on this machine, such as packages and logins.

    Raises:
        UserError: With every problem found, not only the first.
    """
    given, path = path, names.find(path)
    document = reader.read(path)
    foreign.require_training(document.values, path)
    problems = Problems(path)
    if (shipped := names.replaced(given)) is not None:
        problems.notes.append(
            f"`{given}` is the local file {path}. The recipe of that name in {shipped.parent} is not used."
        )
    problems.add_sentences(*document.problems)
    layers = Layers(Layer(from_file(document.values, document.lines)), Layer(from_flags(overrides or {})))

    method = choose_method(layers, problems)
    take_reward_model(layers, method)
    take_entries(layers, method, problems)
    read_variants(layers, document.lines, method, problems)
    drop_unknown_keys(layers, method, problems)
    drop_misplaced_keys(layers, problems)
    unfold_loss_kwargs(layers, problems)
    chosen = choose_loss(layers, method, problems)
    method = settle_method(method, chosen)
    convert_types(layers, method, problems)
    fit_variants(layers, method, problems)
    merged = merge_layers(layers, chosen)
    merge_entries(merged, layers, problems)
    read_evaluation(merged, document.lines, problems)
    read_search(merged, document.lines, problems)
    loss_kwargs = fit_to_loss(merged, chosen, method, problems)
    note_reused_hyperparameters(merged, layers.file, chosen, problems)
    awaits = run_checks(merged, path.parent, method, chosen, problems, to_train=to_train)

    problems.next_step = needs.in_words(path, {key: setting.value for key, setting in merged.settings.items()})
    problems.raise_if_any()
    return _recipe(path, merged, method, chosen, loss_kwargs, problems.notes, awaits)


def run_checks(
    merged: Layer, folder: Path, method: Method, chosen: Choice | None, problems: Problems, *, to_train: bool
) -> str | None:
    """Check the merged settings. Returns a note on what has to be trained before this recipe can run, if anything has."""
    settings = Settings(merged, method, chosen and chosen.info, folder)
    if awaits := stages.awaited(settings):
        settings.reported.add("reward_adapter")
    problems.add_sentences(*checks.check(settings, to_train=to_train))
    problems.notes += [*checks.notes(settings), *([awaits] if awaits else [])]
    return awaits


def _recipe(
    path: Path,
    merged: Layer,
    method: Method,
    chosen: Choice | None,
    loss_kwargs: dict[str, Any],
    notes: list[str],
    awaits: str | None,
) -> Recipe:
    what_is_trained = {} if method.is_default else {"trainer": method.name}
    explicit = {*merged.settings, *what_is_trained}
    if chosen is not None:
        what_is_trained["loss"] = chosen.loss
        explicit |= {"loss"} if chosen.is_stated else set()
    values = what_is_trained | {key: setting.value for key, setting in merged.settings.items()}
    loss = None if chosen is None else chosen.loss
    precedes = path.name == RESOLVED and "apply_chat_template" not in values
    return Recipe(path, values, explicit, loss, loss_kwargs, notes, awaits, precedes)
