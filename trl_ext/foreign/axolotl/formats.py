"""Say what the `type` of an axolotl dataset means here: the columns that are read, and who writes the turns of a conversation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from trl_ext.foreign.axolotl.kind import LOSSES, REWARD

BY_TEMPLATE = "the columns are recognised, and the tokenizer's chat template writes the turns"
OTHER_TEXT = "the turns are {} only if the tokenizer has that template. Without any template, text has no turns"
TEMPLATES = {"chatml": "ChatML", "llama3": "those of Llama 3", "zephyr": "those of Zephyr"}

WHY = {
    "apply_chat_template": "axolotl trains on this text as it is written",
    "assistant_only_loss": "axolotl trains on the messages of the assistant alone. TRL needs a chat template that marks them, or one "
    "that it knows",
    "completion_only_loss": "`train_on_inputs` is on",
}
"""Why a setting follows from the type of the data."""


@dataclass(frozen=True)
class Format:
    """How the rows of one dataset are read.

    Attributes:
        columns: Names of columns that are not recognised by themselves: {the column of a format here: the column of the data}.
        settings: Other settings that follow.
        reason: Why no `type` is needed.
        changes: How the text that is trained on differs.
        advice: What to do, where rows cannot be read.
    """

    columns: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    reason: str = "the columns are recognised"
    changes: str = ""
    advice: str = ""


def of_entry(entry: dict[str, Any], values: dict[str, Any], kind: str) -> Format:
    """The format of one entry of `datasets`."""
    given = entry.get("type")
    if kind in LOSSES or kind == REWARD:
        return _of_preferences(given, entry)
    return _of_demonstrations(given, entry, values)


def _of_preferences(given: Any, entry: dict[str, Any]) -> Format:
    if isinstance(given, dict):
        return _own_preferences(given)
    if given is None or str(given).startswith("passthrough"):
        settings = {"apply_chat_template": False}
        return Format(_renamed(entry), settings, "prompts and completions are trained on as they are written")
    family, _, kind = str(given).removeprefix("bradley_terry.").partition(".")
    if family == "chat_template":
        columns = _renamed(entry) | (
            {"prompt": entry.get("field_messages") or "messages"} if kind in ("", "default") else {}
        )
        return Format({} if str(given).startswith("bradley_terry") else columns)
    if family in TEMPLATES:
        best = (
            ". The completions ranked best and worst make a pair, where axolotl takes the two that are ranked worst"
            if kind == "nectar"
            else ""
        )
        return Format(reason=BY_TEMPLATE, changes=OTHER_TEXT.format(TEMPLATES[family]) + best)
    return Format(
        reason="it is code of your own, or no type of axolotl",
        changes="the columns are read as they are, without that code",
        advice="check what is read with `trl-ext data RECIPE`",
    )


def _own_preferences(given: dict[str, Any]) -> Format:
    """Columns and text formats of a `type` that is a mapping."""
    columns = {name: given[f"field_{name}"] for name in ("prompt", "chosen", "rejected", "completion", "label", "system")
               if given.get(f"field_{name}")}  # fmt: skip
    texts = {key: text for key, text in given.items() if key.endswith("_format") and text}
    plain = {key for key, text in texts.items() if str(text) == f"{{{key.removesuffix('_format')}}}"}
    if len(plain) == len(texts):
        reason = "prompts and completions are trained on as they are written"
        return Format(_other(columns), {"apply_chat_template": False}, reason)
    written = ", ".join(f"`{key}`" for key in texts if key not in plain)
    return Format(_other(columns), {}, BY_TEMPLATE, f"{written} is not used: the turns are written otherwise")


def _renamed(entry: dict[str, Any]) -> dict[str, str]:
    return _other({name: entry[f"field_{name}"] for name in ("chosen", "rejected") if entry.get(f"field_{name}")})


def _other(columns: dict[str, str]) -> dict[str, str]:
    return {name: column for name, column in columns.items() if name != column}


_HEADINGS = "axolotl writes headings such as `### Instruction:` around instruction and completion. Here they are turns of a conversation"
_SUPERVISED = {
    "alpaca": Format(reason=BY_TEMPLATE, changes=_HEADINGS),
    "alpaca_w_system": Format(reason=BY_TEMPLATE, changes=_HEADINGS),
    "alpaca_chat": Format(reason=BY_TEMPLATE, changes=_HEADINGS),
    "alpaca_instruct": Format(reason=BY_TEMPLATE, changes=_HEADINGS),
    "gpteacher": Format(reason=BY_TEMPLATE, changes=_HEADINGS),
    "oasst": Format(reason=BY_TEMPLATE, changes=_HEADINGS),
    "orcamini": Format(reason=BY_TEMPLATE, changes=_HEADINGS),
    "jeopardy": Format(
        reason=BY_TEMPLATE,
        changes="the category is not part of the prompt, and answers are not written as a question (what is …)",
    ),
    "summarizetldr": Format({"prompt": "article", "completion": "summary"}, {}, BY_TEMPLATE, "there is no instruction to summarise"),
    "metharme": Format({"completion": "generation"}, reason=BY_TEMPLATE, changes="the turns are not those of Metharme"),
    "pygmalion": Format({}, {}, BY_TEMPLATE, "the turns are not those of Pygmalion"),
    "llama2_chat": Format({"messages": "conversations"}, {"assistant_only_loss": True}, BY_TEMPLATE),
    "context_qa": Format({"prompt": "question", "completion": "answer"}, {}, BY_TEMPLATE, "the context is not part of the prompt"),
}  # fmt: skip
_UNREADABLE = {
    "input_output": "`segments` that are labelled one by one",
    "explainchoice": "`choices` and `solution`",
    "concisechoice": "`choices` and `solution`",
    "reflection": "`reflection` and `corrected`",
    "stepwise_supervised": "steps that are labelled one by one",
    "creative_acr": "`scores`, `critiques` and `revision`",
}


def _of_demonstrations(given: Any, entry: dict[str, Any], values: dict[str, Any]) -> Format:
    if isinstance(given, dict):
        return _own_demonstrations(given, values)
    name = str(given or "").replace(":", ".").partition(".")[0]
    if name in ("", "chat_template", "sharegpt"):
        return _conversation(entry, values)
    if name in ("completion", "pretrain"):
        column = entry.get("field") or entry.get("text_column") or "text"
        return Format(_other({"text": column}), reason="whole texts are trained on")
    if name in _UNREADABLE:
        return Format(
            reason=f"rows with {_UNREADABLE[name]} are not read",
            changes="these rows cannot be trained on as they are",
            advice="write them as prompt and completion first",
        )
    found = next((found for start, found in _SUPERVISED.items() if name.startswith(start)), None)
    if found is None:
        return Format(
            reason="it is code of your own, or a type that is not known here",
            changes="the columns are read as they are, without that code",
            advice="check what is read with `trl-ext data RECIPE`",
        )
    return replace(found, settings=found.settings | _whole_rows(values, "completion_only_loss"))


def _conversation(entry: dict[str, Any], values: dict[str, Any]) -> Format:
    """Messages, of which axolotl trains on those of the assistant."""
    trained = entry.get("roles_to_train")
    every = bool(values.get("train_on_inputs"))
    others = sorted({*map(str, trained)} - {"assistant", "gpt", "model"}) if isinstance(trained, list) else []
    changes = f"the messages of {', '.join(others)} are not trained on" if others and not every else ""
    columns = {"messages": entry["field_messages"]} if entry.get("field_messages") else {}
    return Format(_other(columns), {} if every else {"assistant_only_loss": True}, changes=changes)


def _own_demonstrations(given: dict[str, Any], values: dict[str, Any]) -> Format:
    names = {"instruction": "instruction", "input": "input", "output": "output", "system": "system"}
    columns = {names[key]: given[f"field_{key}"] for key in names if given.get(f"field_{key}")}
    texts = [f"`{key}`" for key in ("format", "no_input_format", "system_format", "system_prompt") if given.get(key)]
    changes = (
        f"{', '.join(texts)} {'is' if len(texts) == 1 else 'are'} not used: the turns are written otherwise"
        if texts
        else ""
    )
    return Format(_other(columns), _whole_rows(values, "completion_only_loss"), BY_TEMPLATE, changes)


def _whole_rows(values: dict[str, Any], switch: str) -> dict[str, Any]:
    return {switch: False} if values.get("train_on_inputs") else {}
