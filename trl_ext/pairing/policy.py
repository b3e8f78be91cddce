"""The model that completions are sampled from: the one a recipe starts from, an adapter on it, or the result of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from trl_ext.judging import open_judge
from trl_ext.judging.kept_verdicts import identity
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.recipe import Recipe
from trl_ext.runs import loaded
from trl_ext.support.errors import UserError

LOADING = (
    "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_compute_dtype", "dtype", "bf16",
    "fp16", "use_cpu", "model_revision", "attn_implementation", "chat_template_path",
)  # fmt: skip
"""Settings of a recipe that its completions depend on."""


class Policy:
    """A model to sample from, in memory only while something needs it.

    Args:
        recipe: How the model is loaded. Its `model_name_or_path` is a model, or the folder of an adapter, which is put on its
            base as a run that continues it does.
        needs_adapter: Whether something shares the base by adapters, such as a reward adapter.
    """

    def __init__(self, recipe: Recipe, *, needs_adapter: bool = False) -> None:
        self.recipe, self._needs_adapter = recipe, needs_adapter
        self._model: Any = None
        self._tokenizer: Any = None

    @classmethod
    def of_adapter(cls, recipe: Recipe, folder: str | Path, *, needs_adapter: bool = False) -> Policy:
        """The same with another adapter in place of the recipe's model."""
        values = {**recipe.values, "model_name_or_path": str(folder)}
        return cls(dataclasses.replace(recipe, values=values), needs_adapter=needs_adapter)

    def check(self) -> None:
        """Refuse a model that cannot be sampled from, before its weights are loaded.

        Raises:
            UserError: Names the reason.
        """
        from trl_ext.build.model import model_path, require_policy
        from trl_ext.model_files import model as model_folder
        from trl_ext.model_files.available import require_model

        require_model(self.recipe.get("model_name_or_path"), self.recipe.get("model_revision"))
        if problem := model_folder.problem(model_path(self.recipe)):
            raise UserError(problem)
        require_policy(self.recipe)

    def load(self) -> Any:
        """The model in evaluation mode."""
        if self._model is None:
            self._model = loaded.start(self.recipe, as_adapter=self._needs_adapter)
        return self._model

    def tokenizer(self) -> Any:
        """Its tokenizer, with a padding token."""
        if self._tokenizer is None:
            made = loaded.processor(self.recipe)
            self._tokenizer = getattr(made, "tokenizer", made)
        return self._tokenizer

    def release(self) -> None:
        """Free its memory. `load` loads it again."""
        if self._model is not None:
            self._model = None
            open_judge.free_memory()

    @property
    def base(self) -> str:
        """Folder or Hub name of the model without adapter."""
        from trl_ext.build.model import model_path

        return adapter_folder.base_name(model_path(self.recipe))

    def facts(self) -> dict[str, Any]:
        """What its completions depend on besides prompts and sampling."""
        from trl_ext.build.model import model_path

        name = self.recipe.get("model_name_or_path")
        is_adapter = adapter_folder.is_in(Path(name).expanduser())
        return {
            "model": self.base if is_adapter else name,
            "adapter": str(Path(name).expanduser().resolve()) if is_adapter else None,
            "files": identity(model_path(self.recipe), self.recipe.get("model_revision")),
            "loading": {key: self.recipe.get(key) for key in LOADING if self.recipe.get(key) is not None},
        }
