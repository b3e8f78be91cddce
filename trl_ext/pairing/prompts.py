"""Find the prompts that completions are sampled for: those the recipe trains on, or those of other data."""

from __future__ import annotations

from typing import Any

from trl_ext.build import dataset as recipe_data
from trl_ext.data.files.names import without_endings
from trl_ext.evaluation import rows as own_rows
from trl_ext.evaluation.judged import longest
from trl_ext.evaluation.prompts import PromptChoice, Prompts, distinct, find_prompts, fitting
from trl_ext.pairing.policy import Policy
from trl_ext.pairing.settings import Sampling
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError


def training_prompts(recipe: Recipe, args: Any, choice: PromptChoice) -> Prompts:
    """The prompts of the rows that a recipe trains on, without those that it holds out; or of other data.

    Args:
        recipe: Of any kind of training.
        args: The configuration of its trainer.
        choice: What the user asked for. Without a file or split, the prompts are the recipe's.

    Raises:
        UserError: There is no such data, or it has no prompts.
    """
    if choice.limit is None and recipe.get("dataset_streaming") and choice.file is None:
        raise UserError("The data is streamed and may not end. Give the number of prompts with `--limit`.")
    if choice.file is not None or choice.split is not None:
        return _without_remark(find_prompts(recipe, args, choice))
    if not (recipe.get("eval_size") or recipe.get("datasets") or recipe.get("max_train_samples")):
        return _without_remark(find_prompts(recipe, args, choice._replace(split=own_rows.train_split(recipe))))
    statements: list[str] = []
    dataset = recipe_data.load(recipe, args, statements)[0]
    name = f"{without_endings(recipe.get('dataset_name') or 'mixture')}-train"
    prompts, columns = distinct(dataset, choice.limit, name, getattr(args, "chat_template_kwargs", None))
    return Prompts(prompts, columns, name, list(dict.fromkeys(statements)))


def _without_remark(found: Prompts) -> Prompts:
    """Without the statement that these prompts are trained on, which is what they are for."""
    return found._replace(statements=[each for each in found.statements if each != own_rows.TRAINED_ON])


def held_out_prompts(
    recipe: Recipe, args: Any, policy: Policy, sampling: Sampling, limit: int
) -> tuple[Prompts | None, str]:
    """The prompts that the recipe holds out from training, or those of its test split; or `None` and why there are none.

    Args:
        recipe: A recipe.
        args: The configuration of its trainer.
        policy: Whose context the prompts must fit.
        sampling: Largest length of a completion.
        limit: Largest number of prompts.
    """
    try:
        found = find_prompts(recipe, args, PromptChoice(limit=limit))
        return fitting(found, policy.tokenizer(), longest(policy.base, recipe), sampling.max_new_tokens), ""
    except UserError as error:
        return None, str(error)


def part(found: Prompts, number: int, size: int | None) -> Prompts:
    """The prompts of a round: `size` of them, after those of the rounds before, from the start again where they end.

    Args:
        found: All prompts.
        number: Of the round, from 0.
        size: Prompts per round; `None` for all of them in every round.
    """
    total = len(found.prompts)
    if size is None or size >= total:
        return found
    places = [i % total for i in range(number * size, (number + 1) * size)]
    columns = {name: [values[i] for i in places] for name, values in found.columns.items()}
    return found._replace(prompts=[found.prompts[i] for i in places], columns=columns)
