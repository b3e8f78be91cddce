"""Bring the examples of a recipe into the form that its setting `apply_chat_template` asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from trl import is_conversational

from trl_ext.build.model import model_path
from trl_ext.data import chat_turns
from trl_ext.data.report import Loaded, Report
from trl_ext.data.template_choice import SETTING, ByHand, Setting, Style, choose
from trl_ext.data.template_marks import marks
from trl_ext.recipe import Recipe
from trl_ext.support.errors import UserError


def in_form(
    recipe: Recipe,
    loaded: Loaded,
    args: Any,
    statements: list[str],
    tokenizer: Callable[[], Any] | None = None,
    is_own: bool = True,
) -> Loaded:
    """Plain text as turns of the chat template, or single turns as plain text, or the examples unchanged.

    Args:
        recipe: Has the setting.
        loaded: Examples of TRL's types.
        args: The trainer's configuration, which may name a chat template.
        statements: Receives a sentence that says which holds.
        tokenizer: Loads the tokenizer or processor; called only if it matters (default: that of the recipe's model).
        is_own: Whether this is the recipe's own data. Other messages are taken as they are, whatever the setting.

    Raises:
        UserError: The setting cannot be followed.
    """
    dataset, report = loaded
    setting = recipe.apply_chat_template
    style = report.style if isinstance(report, Report) else chat_turns.style_of(dataset)
    if style == "messages" and not is_own:
        setting = "auto"
    template = _template(recipe, args, setting, style, tokenizer)
    found = ByHand(0, 0)
    if template is not None and setting in ("auto", True) and style in ("text", "turns"):
        found = chat_turns.by_hand(dataset, marks(template), report.kept)
    choice = choose(setting, style, template is not None, found, report.where)
    if choice.sentence not in statements:
        statements.append(choice.sentence)
    if not choice.changes:
        return loaded
    dataset = chat_turns.in_turns(dataset) if choice.is_chat else chat_turns.as_text(dataset, report.where)
    if isinstance(report, Report):
        report = dataclasses.replace(report, conversational=choice.is_chat)
    return Loaded(dataset, report)


def _template(
    recipe: Recipe, args: Any, setting: Setting, style: Style, tokenizer: Callable[[], Any] | None
) -> Callable[[list[dict]], str] | None:
    """The function that writes a conversation with the chat template; `None` if there is none."""
    if setting in (None, False) or style in ("messages", "whole"):  # these do not depend on it
        return str
    if tokenizer is None:
        from trl_ext.build.tokenizer import load_tokenizer

        processing_class = load_tokenizer(recipe)
    else:
        processing_class = tokenizer()
    if getattr(args, "chat_template_path", None) is not None:
        from trl_ext.inspection.tokenise import with_template

        processing_class = with_template(processing_class, args)
    if not getattr(processing_class, "chat_template", None):
        return None
    return lambda messages: processing_class.apply_chat_template(messages, tokenize=False)


def check_template(recipe: Recipe, args: Any, processing_class: Any, train: Any) -> None:
    """Raise UserError if the data are conversations and there is no chat template."""
    if getattr(processing_class, "chat_template", None) or getattr(args, "chat_template_path", None):
        return
    if is_conversational(next(iter(train), {})):
        raise UserError(
            f"The data are conversations, but the tokenizer of {model_path(recipe)} has no chat template. Choose an "
            "instruction-tuned model, or put a chat_template.jinja beside its tokenizer."
        )


def on_templates(recipe: Recipe, args: Any, processing_class: Any, train: Any) -> list[str]:
    """Sentences for the log if tokens of questions are trained on."""
    example = next(iter(train), {})
    is_chat = is_conversational(example)
    if is_chat and recipe.method.reads == "demonstrations" and "messages" in example and not args.assistant_only_loss:
        return [
            "The loss covers every token, the user's messages included. `assistant_only_loss: true` trains on the assistant's messages only."
        ]
    return []


def recorded(recipe: Recipe, is_chat: bool) -> dict[str, bool]:
    """What a run's resolved recipe holds of the setting: what was done. Nothing for runs that are older than it."""
    return {} if recipe.apply_chat_template is None else {SETTING: is_chat}
