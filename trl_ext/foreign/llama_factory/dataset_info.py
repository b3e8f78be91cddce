"""Find the datasets that a LLaMA-Factory file names: in dataset_info.json of `dataset_dir`, or among those it ships with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_ext.demo import EMBEDDED
from trl_ext.foreign.dialect import Values
from trl_ext.foreign.llama_factory.file_values import names, stage

FILE = "dataset_info.json"

_PAIR = {"chosen": "chosen", "rejected": "rejected"}
_CONVERSATION = {"ranking": True, "formatting": "sharegpt", "columns": {"messages": "conversations", **_PAIR}}
_CHAT_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "dpo_mix_en": {"hf_hub_url": "llamafactory/DPO-En-Zh-20k", "subset": "en", **_CONVERSATION},
    "dpo_mix_zh": {"hf_hub_url": "llamafactory/DPO-En-Zh-20k", "subset": "zh", **_CONVERSATION},
    "ultrafeedback": {"hf_hub_url": "llamafactory/ultrafeedback_binarized", "columns": {"prompt": "instruction", **_PAIR}},
    "coig_p": {"hf_hub_url": "m-a-p/COIG-P", **_CONVERSATION},
    "rlhf_v": {"hf_hub_url": "llamafactory/RLHF-V", **_CONVERSATION},
    "orca_pairs": {"hf_hub_url": "Intel/orca_dpo_pairs", "columns": {"prompt": "question", "system": "system", **_PAIR}},
    "nectar_rm": {"hf_hub_url": "AstraMindAI/RLAIF-Nectar"},
    "kto_mix_en": {
        "hf_hub_url": "argilla/kto-mix-15k",
        "formatting": "sharegpt",
        "columns": {"messages": "completion", "kto_tag": "label"},
        "tags": _CHAT_TAGS,
    },
    "ultrafeedback_kto": {
        "hf_hub_url": "argilla/ultrafeedback-binarized-preferences-cleaned-kto",
        "columns": {"prompt": "prompt", "response": "completion", "kto_tag": "label"},
    },
}  # fmt: skip
"""Preference datasets on the Hub that LLaMA-Factory's own dataset_info.json names."""

ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
"""Columns of rows that dataset_info.json says nothing about."""


@dataclass(frozen=True)
class Source:
    """One dataset.

    Attributes:
        name: As the file calls it.
        path: A name on the Hub, or a local file or folder; empty if it is not known.
        config: Its configuration on the Hub.
        split: Its split.
        folder: Its folder in the repository.
        samples: Rows that are drawn at random; `None` for all.
        is_conversation: Whether rows are lists of messages; `None` if it is not known.
        columns: {name here: column}, where they differ.
        has_history: Whether earlier turns are in a column of their own.
    """

    name: str
    path: str = ""
    config: str | None = None
    split: str = "train"
    folder: str | None = None
    samples: int | None = None
    is_conversation: bool | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    has_history: bool = False


def missing(values: Values) -> str:
    """The end of a sentence about dataset_info.json: why a name in it says nothing."""
    folder = values.get("dataset_dir") or "data"
    if isinstance(folder, str) and folder.startswith("REMOTE:"):
        return f"that of {folder.removeprefix('REMOTE:')} on the Hub, which is not read"
    if isinstance(folder, str) and Path(folder, FILE).expanduser().is_file():
        return f"and {folder}/{FILE} does not say where the data is"
    return f"and there is no {folder}/{FILE} here"


def sources(value: Any, values: Values) -> list[Source]:
    """The datasets that a value names, in its order."""
    known = _described(values.get("dataset_dir") or "data")
    return [_source(name, known, values) for name in names(value)]


def _described(folder: Any) -> Mapping[str, Any]:
    if isinstance(folder, Mapping):
        return folder
    try:
        found = json.loads(Path(str(folder), FILE).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return PUBLISHED
    return found if isinstance(found, dict) else PUBLISHED


def _source(name: str, known: Mapping[str, Any], values: Values) -> Source:
    if values.get("dataset_dir") == "ONLINE":  # names are those of the Hub
        return Source(name, name, is_conversation=False)
    if name == EMBEDDED or (name not in known and ("/" in name or Path(name).expanduser().exists())):
        return Source(name, name)  # as in a recipe
    entry = known.get(name)
    if not isinstance(entry, Mapping):
        return Source(name)
    hub, file = entry.get("hf_hub_url"), entry.get("file_name")
    path = hub or (str(Path(str(values.get("dataset_dir") or "data"), str(file))) if file else "")
    columns = entry.get("columns")
    columns = columns if isinstance(columns, Mapping) else {}
    is_conversation = entry.get("formatting", "alpaca") != "alpaca"
    return Source(
        name,
        str(path),
        config=entry.get("subset"),
        split=str(entry.get("split") or "train"),
        folder=entry.get("folder"),
        samples=entry.get("num_samples"),
        is_conversation=is_conversation,
        columns=_columns(columns, is_conversation, stage(values)),
        has_history=not is_conversation and bool(columns.get("history")),
    )


def _columns(columns: Mapping[str, Any], is_conversation: bool, kind: str) -> dict[str, str]:
    """LLaMA-Factory's roles of columns as names that are known here, without those that have this name already."""
    if is_conversation:
        known = {"messages": "conversations", "system": "system"}
    elif kind == "pt":
        known = {"prompt": "text"}
    else:
        prompt = "instruction" if columns.get("query") or not columns.get("prompt") else "prompt"
        response = "output" if prompt == "instruction" else "completion"
        known = {"prompt": prompt, "query": "input", "response": response, "system": "system", "history": "history"}
    known |= {"chosen": "chosen", "rejected": "rejected", "kto_tag": "label", "images": "images"}
    named = {known[role]: str(column) for role, column in columns.items() if role in known and column}
    return {name: column for name, column in named.items() if name != column and not _is_recognised(name, column)}


def _is_recognised(name: str, column: str) -> bool:
    """Whether a column is read under its own name as well."""
    others = {
        "conversations": ("messages", "conversation"),
        "label": ("kto_tag",),
        "prompt": ("instruction", "question"),
        "system": ("system_prompt",),
    }
    return column in others.get(name, ())
