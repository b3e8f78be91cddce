"""Check and load a local causal language model that is used as a judge."""

from pathlib import Path
from typing import Any

from trl_ext.model_files import adapter, chat_template
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError


def problem(name: str, revision: str | None = None) -> str | None:
    """A sentence about a judge model that cannot be used; `None` if it can. Reads the tokenizer's files only.

    A model on the Hub whose tokenizer is not in the cache is not refused here, but by `load`.
    """
    template = chat_template.of_model(name, revision)
    return without_template(name) if template is not None and template.text is None else None


def without_template(name: str) -> str:
    """The sentence about a model without a chat template."""
    return (
        f"The judge {name} has no chat template, so it cannot be asked a question. Choose an instruction-tuned model, or put a "
        "chat_template.jinja beside its tokenizer."
    )


def load(name: str, *, revision: str | None = None, load_in_4bit: bool = False) -> tuple[Any, Any]:
    """The model, in evaluation mode, and its tokenizer.

    Args:
        name: A folder, a name on the Hub, or `embedded`. The directory of a run with an adapter is loaded as it was trained.
        revision: Commit, branch or tag on the Hub.
        load_in_4bit: Whether the weights are quantised (NF4 with double quantisation).

    Raises:
        UserError: It cannot be found, has no chat template, or cannot be loaded.
    """
    if sentence := problem(name, revision):
        raise UserError(sentence)
    from trl_ext.runs import loaded

    recipe = Recipe(
        Path(name), {"trainer": "sft", "model_name_or_path": name, "model_revision": revision}, set(), None, {}
    )
    tokenizer = loaded.processor(recipe)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if not tokenizer.chat_template:
        raise UserError(without_template(name))
    if adapter.is_in(Path(name).expanduser()):
        from trl_ext.runs.load import open_model

        return open_model(Path(name).expanduser()).model, tokenizer
    return _weights(name, recipe, load_in_4bit), tokenizer


def _weights(name: str, recipe: Recipe, load_in_4bit: bool) -> Any:
    from trl import ModelConfig

    from trl_ext.build import pretrained
    from trl_ext.build.dtypes import precision
    from trl_ext.build.model import model_path
    from trl_ext.runs import loaded
    from trl_ext.support import quiet
    from trl_ext.support.frozen_base import keep_exact_cpu_kernels

    if not load_in_4bit:
        return loaded.whole(recipe)
    quiet.hide_loading_bars()
    compute_dtype = precision(recipe).compute_dtype
    settings = ModelConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", use_bnb_nested_quant=True)
    try:
        model = pretrained.load(
            model_path(recipe),
            revision=recipe.get("model_revision") or "main",
            dtype=compute_dtype,
            quantization_config=pretrained.quantisation(settings, compute_dtype),
        )
    except OSError as error:
        raise UserError(f"The judge {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    keep_exact_cpu_kernels(model)
    return model.eval()


def load_classifier(name: str, revision: str | None = None, load_in_4bit: bool = False) -> tuple[Any, Any]:
    """A sequence classifier with one label, in evaluation mode, and its tokenizer.

    Args:
        name: A folder, or a name on the Hub.
        revision: Commit, branch or tag on the Hub.
        load_in_4bit: Whether the weights are quantised (NF4 with double quantisation).

    Raises:
        UserError: It cannot be loaded, or has more than one label.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

    from trl_ext.support import quiet

    quiet.hide_loading_bars()
    path = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or "main")
        model = AutoModelForSequenceClassification.from_pretrained(
            path,
            revision=revision or "main",
            dtype="auto" if torch.accelerator.is_available() else torch.float32,
            device_map=torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None,
            quantization_config=quantised if load_in_4bit else None,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"The judge {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if model.config.num_labels != 1:
        raise UserError(
            f"The judge {name} is a classifier with {model.config.num_labels} labels. A judge needs one score per answer: choose a "
            "reward model with one label."
        )
    return model.eval(), tokenizer
