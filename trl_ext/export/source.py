"""Find what to merge: an adapter, its base model, and the run it comes from, if any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from trl_ext.export import mergeable
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.model_files import model as model_folder
from trl_ext.model_files import quantised
from trl_ext.model_files.quantised import Stored
from trl_ext.recipe import Recipe
from trl_ext.runs import finished
from trl_ext.support.errors import UserError


class Source(NamedTuple):
    """An adapter and its base.

    Attributes:
        folder: Holds adapter_config.json: a run, one of its checkpoints, or an adapter saved by PEFT.
        adapter: The content of adapter_config.json; empty for a complete model (`find_for_export`).
        base: Path or Hub name of the model to merge into.
        revision: Of the base.
        recipe: The recipe of the run; `None` if unknown.
        why_no_recipe: The reason in that case, as a sentence.
        trained_on: The base of the training, where another one was given to merge into.
    """

    folder: Path
    adapter: dict[str, Any]
    base: str
    revision: str | None
    recipe: Recipe | None
    why_no_recipe: str = ""
    trained_on: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is a complete model instead of an adapter: `base` is its folder, and nothing is merged."""
        return not self.adapter

    @property
    def is_classifier(self) -> bool:
        """Whether it is a reward model: a sequence classifier with a scalar head."""
        return self.adapter.get("task_type") == "SEQ_CLS"

    @property
    def rank(self) -> int:
        """The largest rank of any module's adapter."""
        return adapter_folder.rank_of(self.adapter)

    @property
    def trust_remote_code(self) -> bool:
        return bool(self.recipe and self.recipe.get("trust_remote_code"))

    @property
    def settings(self) -> Recipe:
        """The recipe, or an empty one."""
        return self.recipe or Recipe(self.folder, {"trainer": "sft"}, set(), None, {})


def find(given: Path, base: str | None = None) -> Source:
    """Find the adapter of a run, of a checkpoint, of the latest run of a recipe, or of a plain folder.

    Args:
        given: One of these.
        base: The model to merge into instead of the one the adapter names.

    Raises:
        UserError: There is no adapter, or it cannot be merged.
    """
    folder = finished.directory_of(given)
    if not adapter_folder.is_in(folder):
        if (folder / "config.json").exists():
            raise UserError(
                f"{folder} holds a complete model and no adapter, so there is nothing to merge. Use it as it is."
            )
        raise UserError(
            finished.unfinished(folder)
            or f"{folder} holds no adapter ({adapter_folder.CONFIG}). Give the directory of a finished run, of one of its "
            "checkpoints, or of an adapter saved by PEFT."
        )
    if base is None and (problem := model_folder.problem(str(folder))):
        raise UserError(problem)
    adapter = adapter_folder.config(folder)
    if why := mergeable.problem(folder, adapter):
        raise UserError(why)
    recipe, why_not = _recipe(folder)
    if base is not None:
        base, trained_on = os.path.expanduser(base), adapter_folder.base_of(folder)
        return Source(folder, adapter, base, None, recipe, why_not, None if _is_same(base, trained_on) else trained_on)
    revision = (recipe and recipe.get("model_revision")) or adapter.get("revision")
    return Source(folder, adapter, adapter_folder.base_of(folder), revision, recipe, why_not)


def _is_same(base: str, other: str | None) -> bool:
    """Whether two names or paths are those of one model."""
    return base == other or (Path(base).is_dir() and Path(other or "").is_dir() and Path(base).samefile(other))


def find_for_export(given: Path, base: str | None = None) -> Source:
    """The same as `find`; also the folder of a complete model, such as a run that trained all weights.

    Raises:
        UserError: It cannot be exported, or `base` is given for a complete model.
    """
    folder = finished.directory_of(given)
    if adapter_folder.is_in(folder):
        return find(given, base)
    finished.check(folder)
    if base is not None:
        raise UserError(
            f"`--base` is {base}, but {folder} holds a complete model, which is merged into nothing. Remove it."
        )
    if (stored := quantised.of_model(str(folder))) is not None:
        raise UserError(
            f"{folder} holds a model that is stored quantised ({stored.title}). llama.cpp converts 16-bit weights. Give a folder that "
            "holds them."
        )
    recipe, why_not = _recipe(folder)
    return Source(folder, {}, str(folder), None, recipe, why_not)


def check_base(source: Source) -> None:
    """Refuse a base without 16-bit weights, or one that the adapter does not fit. Only its configuration is read.

    Raises:
        UserError: It is stored quantised, cannot be found, or is not the adapter's.
    """
    from trl_ext.build import quantised_base

    try:
        stored = quantised_base.of(source.base, source.revision)
    except OSError as error:
        raise UserError(
            f"The base {source.base} cannot be loaded: {str(error).splitlines()[0]} Check the name and the network, or "
            "give a copy with `--base`."
        ) from error
    if stored is None:
        from trl_ext.build import adapter_fit

        adapter_fit.check(
            str(source.folder),
            source.base,
            source.revision,
            trust_remote_code=source.trust_remote_code,
            is_classifier=source.is_classifier,
            merges=True,
        )
        return
    if stored.original is not None:
        remedy = f"Merge into its 16-bit original: give `--base {stored.original}`."
    else:
        remedy = (
            "Merge into its 16-bit original: give its name with `--base`. Neither the base's config.json nor its model card says "
            f"which model that is.{_as_trained(stored)}"
        )
    raise UserError(
        f"The base {source.base} is stored quantised ({stored.title}), so merging would round its weights twice. {remedy}"
    )


def _as_trained(stored: Stored) -> str:
    """How to write the weights that the adapter was trained on in 16 bits, where transformers can."""
    if not (stored.is_bnb_4bit or stored.method.is_dequantised):
        return ""
    how = (
        "load the model with transformers and call `model.dequantize()`"
        if stored.is_bnb_4bit
        else "load the model with transformers and `dequantize=True` in its quantisation's configuration"
    )
    return f" If you cannot find it, {how}. Then save it with its tokenizer in a new folder, and give that folder."


def _recipe(folder: Path) -> tuple[Recipe | None, str]:
    """The run's recipe, or why there is none; the run's data need not exist any more."""
    if not any((home / finished.RECIPE).exists() for home in (folder, folder.parent)):
        return None, f"{folder} was not written by `trl-ext run`, so its data and precision are unknown."
    try:
        return finished.began_as(folder), ""
    except UserError as error:
        return None, str(error)
