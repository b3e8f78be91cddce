"""The model that completions are sampled from: the one a recipe starts from, an adapter on it, or the result of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from peft import PeftModel

from trl_ext.judging import open_judge
from trl_ext.judging.kept_verdicts import identity
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.recipe import Recipe
from trl_ext.runs import loaded
from trl_ext.support.errors import UserError

ADAPTER, MERGED = "adapter", "merged"

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
        weights: `ADAPTER` to sample from base and adapter, `MERGED` from a plain copy of the base with the adapter merged in.
    """

    def __init__(self, recipe: Recipe, *, needs_adapter: bool = False, weights: str = ADAPTER) -> None:
        self.recipe, self.weights = recipe, weights
        self._needs_adapter = needs_adapter or weights == MERGED
        self._model: Any = None
        self._copy: Any = None
        self._tokenizer: Any = None

    @classmethod
    def of_adapter(cls, recipe: Recipe, folder: str | Path, **options: Any) -> Policy:
        """The same with another adapter in place of the recipe's model."""
        values = {**recipe.values, "model_name_or_path": str(folder)}
        return cls(dataclasses.replace(recipe, values=values), **options)

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

    def sampler(self) -> Any:
        """What completions are sampled from: the model itself, or a plain copy, which is faster and takes more memory.

        Raises:
            UserError: The adapter cannot be merged, or the copy does not fit.
        """
        model = self.load()
        if self.weights == ADAPTER:
            return model
        if self._copy is None:
            from trl_ext.trainers.common.out_of_memory import reported
            from trl_ext.trainers.rollout import merged_copy

            instead = "Remove `--sampling_weights`."
            if not isinstance(model, PeftModel):
                raise UserError(f"`--sampling_weights` is merged, and the recipe trains all weights. {instead}")
            if (reason := merged_copy.why_not_model(model)) is not None:
                raise UserError(f"`--sampling_weights` is merged, but {reason}. {instead}")
            with reported("while the adapter was merged into a copy of the base", "remove `--sampling_weights`"):
                try:
                    self._copy = merged_copy.MergedCopy(model, merged_copy.dtype_of(model))
                except merged_copy.CannotMergeError as error:
                    raise UserError(f"`--sampling_weights` is merged, but {error}. {instead}") from error
        return self._copy.model

    def forget_sampler(self) -> None:
        """Free the copy, once completions are sampled."""
        if self._copy is not None:
            self._copy = None
            open_judge.free_memory()

    def tokenizer(self) -> Any:
        """Its tokenizer, with a padding token."""
        if self._tokenizer is None:
            made = loaded.processor(self.recipe)
            self._tokenizer = getattr(made, "tokenizer", made)
        return self._tokenizer

    def release(self) -> None:
        """Free its memory. `load` loads it again."""
        if self._model is not None:
            self._model = self._copy = None
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
            "sampling_weights": self.weights,
            "loading": {key: self.recipe.get(key) for key in LOADING if self.recipe.get(key) is not None},
        }
