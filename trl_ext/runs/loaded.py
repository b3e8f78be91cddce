"""Hold a trained model in memory, with the model it was trained from as its reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_ext.model_files import adapter as adapter_folder
from trl_ext.recipe import Recipe
from trl_ext.runs import finished
from trl_ext.support import quiet
from trl_ext.support.errors import UserError


@dataclass
class Opened:
    """A trained model; after `add_reference`, also the model its run started from.

    Attributes:
        directory: Of the run, of one of its checkpoints, or of an adapter or a model without a run.
        recipe: The run's, with the result as its model; without a run, a recipe that names adapter or model only.
        began_with: Path or name of the model or adapter that was trained; `None` for a model without a run.
        model: In evaluation mode: a `PeftModel` with the run's adapter, or a whole model.
        processor: The model's tokenizer, or its processor.
        first_weights: The model a run started from, if it trained all weights and `add_reference` was called.
    """

    directory: Path
    recipe: Recipe
    began_with: str | None
    model: Any
    processor: Any
    first_weights: Any = None

    @property
    def tokenizer(self) -> Any:
        """With a padding token."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def is_adapter(self) -> bool:
        return adapter_folder.is_in(self.directory)

    @property
    def is_run(self) -> bool:
        """Whether a run is known that trained it."""
        return finished.is_of_run(self.directory)

    @property
    def continued(self) -> str | None:
        """The adapter the run started from, which was its reference; `None` if its reference was a base model."""
        if self.recipe.get("reference") == "base":
            return None
        return self.began_with if self.began_with and adapter_folder.is_in(Path(self.began_with)) else None

    @property
    def base_in_words(self) -> str:
        """A description of the model that `reference` yields."""
        if self.continued:
            return f"the adapter {self.continued} on the same model"
        return "the same model with its adapter off" if self.is_adapter else f"{self.began_with} before training"

    def add_reference(self) -> None:
        """Load the weights that `reference` needs, unless they are in memory already.

        Raises:
            UserError: See `check_beginning`; or it cannot be loaded.
        """
        check_beginning(self.directory, self.began_with)
        if not self.is_adapter:
            values = {**self.recipe.values, "model_name_or_path": self.began_with}
            self.first_weights = whole(dataclasses.replace(self.recipe, values=values))
            return
        from trl_ext.reference import frozen_copy
        from trl_ext.reference.implicit import FROZEN_COPY

        if FROZEN_COPY in self.model.peft_config:  # the trainer's copy of the adapter it started from
            self.model.delete_adapter(FROZEN_COPY)
        if self.continued:
            frozen_copy.load(self.model, self.continued)

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """Yield the model the run started from, in evaluation mode and without gradients."""
        from trl_ext.reference.implicit import implicit_reference

        if self.first_weights is not None:
            yield self.first_weights
            return
        with implicit_reference(self.model):
            yield self.model


def check_beginning(directory: Path, began_with: str | None) -> None:
    """Refuse a model whose starting point is unknown or no longer exists.

    Args:
        directory: Of the model.
        began_with: See `Opened`.
    """
    if began_with is None:
        raise UserError(
            f"{directory} is a model without a run, so the model it was trained from is unknown. Give the directory of "
            "the run."
        )
    if Path(began_with).is_absolute() and not Path(began_with).exists():
        raise UserError(
            f"The run in {directory} started from {began_with}, which no longer exists. Restore it, or correct "
            "`model_name_or_path` in recipe.resolved.yaml."
        )


def processor(recipe: Recipe) -> Any:
    """Tokenizer or processor of a recipe's model, with a padding token."""
    from trl_ext.build.tokenizer import load_tokenizer

    made = load_tokenizer(recipe)
    text = getattr(made, "tokenizer", made)
    if text.pad_token is None:
        text.pad_token = text.eos_token
    return made


def adapter(recipe: Recipe) -> Any:
    """Load the adapter a recipe names as its model, on its base, as a run that continues it does; in evaluation mode."""
    from trl_ext.build.config import training_config
    from trl_ext.build.dtypes import precision
    from trl_ext.build.model import load_policy, model_path
    from trl_ext.support.frozen_base import keep_exact_cpu_kernels

    chosen, directory = precision(recipe), Path(model_path(recipe))
    try:
        model, _ = load_policy(recipe, training_config(recipe, directory, chosen), chosen, [])
    except OSError as error:
        base = adapter_folder.base_of(directory)
        raise UserError(
            f"The base model of {directory}, {base}, cannot be loaded: {str(error).splitlines()[0]} Restore it, or correct "
            f"`base_model_name_or_path` in {adapter_folder.CONFIG}."
        ) from error
    keep_exact_cpu_kernels(model)
    return model.eval()


def start(recipe: Recipe, *, as_adapter: bool = False) -> Any:
    """Load the model a recipe starts from, in evaluation mode and as its trainer loads it: quantisation, dtype, adapter.

    Args:
        recipe: A recipe, whose model may be the folder of an adapter.
        as_adapter: Return a `PeftModel` also if the recipe starts from a model without adapter; its adapter has no effect.
    """
    from trl_ext.build.config import training_config
    from trl_ext.build.dtypes import precision
    from trl_ext.build.model import load_policy, model_path
    from trl_ext.build.shared_base import SharedBase
    from trl_ext.support.frozen_base import keep_exact_cpu_kernels

    if adapter_folder.is_in(Path(model_path(recipe))):
        return adapter(recipe)
    if not recipe.get("use_peft"):
        return whole(recipe)
    chosen, directory = precision(recipe), Path(model_path(recipe))
    model, options = load_policy(recipe, training_config(recipe, directory, chosen), chosen, [], SharedBase())
    if as_adapter:
        from peft import get_peft_model

        from trl_ext.reference.frozen_copy import inert

        model = get_peft_model(model, inert(options["peft_config"]))
    keep_exact_cpu_kernels(model)
    return model.eval()


def whole(recipe: Recipe) -> Any:
    """Load a model without adapter, in evaluation mode and the dtype of its run; without a run, in the stored dtype."""
    quiet.hide_loading_bars()
    import torch

    from trl_ext.build import pretrained
    from trl_ext.build.dtypes import precision
    from trl_ext.build.model import model_path
    from trl_ext.support.frozen_base import keep_exact_cpu_kernels

    stored = "auto" if torch.accelerator.is_available() else "float32"
    try:
        model = pretrained.load(
            model_path(recipe),
            revision=recipe.get("model_revision") or "main",
            dtype=precision(recipe).model_dtype if recipe.explicit else stored,
            trust_remote_code=bool(recipe.get("trust_remote_code")),
        )
    except OSError as error:
        raise UserError(f"{model_path(recipe)} cannot be loaded: {str(error).splitlines()[0]}") from error
    keep_exact_cpu_kernels(model)
    return model.eval()
