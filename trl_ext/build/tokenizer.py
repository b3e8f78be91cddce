"""Load the tokenizer or processor of a recipe."""

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from trl_ext.build import architecture
from trl_ext.build.model import adapter_base, base_revision, model_path
from trl_ext.inspection import model_files, special_tokens
from trl_ext.model_files.available import require_model
from trl_ext.model_files.template_defaults import set_defaults
from trl_ext.recipe import Recipe
from trl_ext.support.counts import count
from trl_ext.support.errors import UserError


def load_tokenizer(recipe: Recipe, statements: list[str] | None = None) -> Any:
    """Load the model's processor (vision-language models) or tokenizer. It puts no end-of-sequence token after texts.

    The recipe's `chat_template_kwargs` are the defaults of its chat template.

    Args:
        recipe: Names the model.
        statements: Receives a sentence if the tokenizer had to be changed.

    Raises:
        UserError: It cannot be loaded, has no end-of-sequence token or appends it always, or has tokens the model has no embedding for.
    """
    path = model_path(recipe)
    require_model(path, recipe.get("model_revision"))
    revision = recipe.get("model_revision") or "main"
    trust = bool(recipe.get("trust_remote_code"))
    base, base_commit = path, revision
    if find_adapter_config_file(path):
        base, base_commit = adapter_base(path), base_revision(recipe)
        if not (Path(path) / "tokenizer_config.json").exists():
            path, revision = base, base_commit
    try:
        config = architecture.read(base, base_commit, trust_remote_code=trust)
        processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be loaded: {str(error).splitlines()[0]} Check the name and the network. A gated model needs "
            "`hf auth login`, and its licence accepted on its Hub page."
        ) from error
    if not isinstance(processor, PreTrainedTokenizerBase) and not hasattr(processor, "tokenizer"):
        processor = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust)
    text = getattr(processor, "tokenizer", processor)
    if text.eos_token is None:
        raise UserError(
            f"The tokenizer of {path} has no end-of-sequence token, so completions would never end. Set one in its "
            "tokenizer_config.json."
        )
    _check_embeddings(text, path, base, config)
    set_defaults(processor, recipe.get("chat_template_kwargs"))
    if special_tokens.appends_end(text):
        _stop_appending_end(text, path, [] if statements is None else statements)
    return processor


def _stop_appending_end(tokenizer: Any, path: str, statements: list[str]) -> None:
    try:
        special_tokens.stop_appending_end(tokenizer)
    except ValueError as error:
        raise UserError(f"{path}: {error}. Use a tokenizer that does not (`add_eos_token: false`).") from error
    statements.append(
        f"The tokenizer put `{tokenizer.eos_token}` after every text, also after prompts. This was switched off: the trainer ends "
        "completions itself."
    )


def _check_embeddings(tokenizer: Any, path: str, base: str, config: PreTrainedConfig) -> None:
    """Raise UserError if there are tokens without an embedding.

    Args:
        path: Where the tokenizer comes from: a model, or an adapter.
        base: The model, or the base of the adapter.
        config: Of the base.
    """
    rows = special_tokens.embeddings(config)
    beyond = special_tokens.unembedded(tokenizer, rows) if rows else []
    if not beyond:
        return
    of_model = "the model's" if path == base else f"the base {base}'s"
    remedy = (
        "Use the tokenizer the model was trained with, or call `model.resize_token_embeddings(len(tokenizer))` and save both."
        if path == base
        else "Use the base the adapter was trained on, or remove the tokenizer from the adapter's folder."
    )
    raise UserError(
        f"The tokenizer of {path} has {count(len(beyond), 'tokens')} beyond {of_model} {rows:,} embeddings, for instance "
        f"{', '.join(map(repr, beyond[:3]))}. {remedy}"
    )


def model_files_of(recipe: Recipe, processing_class: Any) -> model_files.ModelFiles:
    """Read the configuration files of the recipe's base model."""
    path, revision = model_path(recipe), recipe.get("model_revision") or "main"
    if find_adapter_config_file(path) is not None:
        path, revision = adapter_base(path), base_revision(recipe)
    return model_files.read(path, revision, bool(recipe.get("trust_remote_code")), processing_class)
