"""Say before a run, from a model's files and the first rows of a local file, whether the chat template will be applied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trl_ext.data.chat_roles import ROLES
from trl_ext.data.files.first_rows import ROWS
from trl_ext.data.formats import Sample, recognise
from trl_ext.data.recognise_file import sample_of_file
from trl_ext.data.template_choice import SETTING, ByHand, Setting, Style, choose
from trl_ext.data.template_marks import is_marked, marks
from trl_ext.data.text_style import style_of
from trl_ext.demo import EMBEDDED
from trl_ext.model_files.chat_template import Template


def outlook(
    setting: Setting,
    template: Template | None,
    name: str | None,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
) -> str:
    """What will become of the chat template, in a sentence that names the setting.

    Args:
        setting: The value of `apply_chat_template`.
        template: That of the model; `None` if it is not known.
        name: The dataset of the recipe; `None` for a mixture.
        columns: `dataset_columns`.
        format: `dataset_format`.

    Raises:
        UserError: The setting cannot be followed.
    """
    found = None if name in (None, EMBEDDED) else sample_of_file(name, columns)
    style = "messages" if name == EMBEDDED else found and _style(found, format)
    if setting is not None and (template is None or style is None):
        return _unknown(setting, template)
    by_hand, has_template = ByHand(0, 0), template is not None and template.text is not None
    if setting in (True, "auto") and has_template and style in ("text", "turns"):
        by_hand = _by_hand(found.rows, marks(template.render))
    if setting == "auto" and 0 < by_hand.rows < by_hand.total == ROWS:
        return (
            f"Chat template: {by_hand.rows} of the first {ROWS} rows contain `{by_hand.mark}`, which the template writes. Whether "
            f"it is applied depends on all rows, which `trl-ext data` reads (`{SETTING}: auto`)."
        )
    return choose(setting, style or "messages", has_template, by_hand, Path(name or "").name).sentence


def _unknown(setting: Setting, template: Template | None) -> str:
    named = f"`{SETTING}: {str(setting).lower()}`"
    if setting is False:
        return f"Chat template: not applied to plain text ({named})."
    if template is not None and template.text is None:
        return f"Chat template: the tokenizer has none, so plain text stays plain text ({named})."
    condition = ", if the tokenizer has a chat template" if template is None and setting == "auto" else ""
    return f"Chat template: plain text prompts and completions become turns{condition} ({named})."


def _style(found: Sample, format: str) -> Style | None:
    match = recognise(found, format)
    if match is not None:
        return style_of(match, found)
    kinds = {found.kind(name) for name in ROLES} - {None}
    if "text" in kinds:
        return "text"
    if kinds:
        return "messages"
    return "messages" if {"messages", "conversations"} & set(found.columns) else "whole"


def _by_hand(rows: list[dict], found: tuple[str, ...]) -> ByHand:
    """Count the rows with a mark of the template in a text."""
    texts = [[value for value in row.values() if isinstance(value, str)] for row in rows]
    has = [any(is_marked(text, found) for text in row) for row in texts]
    if True not in has:
        return ByHand(0, len(rows))
    mark = next(mark for mark in found if any(is_marked(text, (mark,)) for text in texts[has.index(True)]))
    first_without = has.index(False) if False in has else 0
    return ByHand(
        sum(has), len(rows), mark, has.index(True), first_without, "rows" if len(rows) < ROWS else "first rows"
    )
