"""Read the folder of an adapter, as PEFT saves it."""

import json
import os
from pathlib import Path
from typing import Any

from trl_ext import demo
from trl_ext.model_files.weights import header
from trl_ext.support.counts import count

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OLDER_WEIGHTS = "adapter_model.bin"


def is_in(folder: Path) -> bool:
    return (folder / CONFIG).exists()


def is_continued(model: Any) -> bool:
    """Whether the `model_name_or_path` of a recipe is the folder of an adapter, whose training continues."""
    return isinstance(model, str) and bool(model) and is_in(Path(model).expanduser())


def config(folder: Path) -> dict[str, Any]:
    """The content of the adapter's configuration; empty if it is missing or damaged, which loading it will report."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of the adapter's weights by name; empty without a readable safetensors file."""
    try:
        return {name: list(entry["shape"]) for name, entry in header(folder / WEIGHTS).tensors.items()}
    except (OSError, ValueError, LookupError):
        return {}


def base_of(folder: Path) -> str | None:
    """Path (`~` written out) or Hub name of the model under the adapter; `None` if there is no adapter or it names no base."""
    base = config(folder).get("base_model_name_or_path")
    return os.path.expanduser(base) if isinstance(base, str) else base


def local_base(folder: Path) -> Path | None:
    """The folder of the model under the adapter; `None` if it is on the Hub or does not exist."""
    base = base_of(folder)
    path = Path(base).expanduser() if isinstance(base, str) and base else None
    return path if path is not None and path.is_dir() else None


def revision_of(folder: Path) -> str | None:
    """Commit, branch or tag of that model on the Hub; `None` if the adapter does not name one."""
    return config(folder).get("revision")


def base_name(name: str | None) -> str | None:
    """Path or Hub name of the base model under a recipe's `model_name_or_path`; `None` if that is not set."""
    if name is None or name == demo.EMBEDDED:
        return name and str(demo.MODEL)
    return base_of(Path(name).expanduser()) or name


TITLES = {
    "IA3": "IA3", "LOHA": "LoHa", "LOKR": "LoKr", "ADALORA": "AdaLoRA", "VERA": "VeRA", "LN_TUNING": "layer-norm tuning",
    "PROMPT_TUNING": "prompt tuning", "MULTITASK_PROMPT_TUNING": "multitask prompt tuning", "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning", "TRAINABLE_TOKENS": "trainable tokens",
}  # fmt: skip
"""The names of PEFT's types in sentences, where they are not the type itself."""


def title(content: dict[str, Any]) -> str:
    """What an adapter is called in a sentence: LoRA, DoRA, IA3, prompt tuning, …

    Args:
        content: Of its configuration.
    """
    kind = str(content.get("peft_type") or "unknown type")
    if kind != "LORA":
        return TITLES.get(kind, kind)
    return "DoRA" if content.get("use_dora") else "rsLoRA" if content.get("use_rslora") else "LoRA"


def in_words(content: dict[str, Any]) -> str:
    """An adapter with its sizes and its modules: ``LoRA, rank 16 (q_proj 4), alpha 32, on q_proj, v_proj``.

    Args:
        content: Of its configuration.
    """
    parts = [title(content)]
    for name, key in (("rank", "target_r"), ("rank", "r"), ("alpha", "lora_alpha"), ("alpha", "alpha")):
        if content.get(key) and not any(part.startswith(name) for part in parts):
            parts.append(f"{name} {content[key]}{_patterns(content.get(f'{name}_pattern'))}")
    if content.get("num_virtual_tokens"):
        parts.append(count(content["num_virtual_tokens"], "virtual tokens"))
    if targets := [*_last_names(content.get("target_modules")), *_last_names(content.get("target_parameters"))]:
        parts.append(f"on {', '.join(targets)}")
    if saved := _last_names(content.get("modules_to_save")):
        parts.append(f"{', '.join(saved)} saved whole")
    if tokens := trained_tokens(content):
        parts.append(count(len(tokens), "trained tokens"))
    return ", ".join(parts)


def trained_tokens(content: dict[str, Any]) -> list[int]:
    """Ids of the tokens whose embeddings the adapter trains."""
    given = content.get("trainable_token_indices") or content.get("token_indices") or []
    lists = given.values() if isinstance(given, dict) else [given]
    return [token for each in lists if isinstance(each, list) for token in each if isinstance(token, int)]


def is_prompt_learning(content: dict[str, Any]) -> bool:
    """Whether an adapter adds virtual tokens to the input instead of weights to modules."""
    return "num_virtual_tokens" in content


def rank_of(content: dict[str, Any]) -> int:
    """The largest rank of any module's LoRA; 0 if the adapter has none."""
    ranks = [content.get("r"), *dict(content.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def listed(names: Any) -> list[str]:
    """Names of modules as PEFT's configuration has them, a list or a single pattern."""
    return [names] if isinstance(names, str) else [str(name) for name in names or []]


def _last_names(names: Any) -> list[str]:
    """Module names without their paths, each once; a pattern as it is."""
    named = (name.rpartition(".")[2] if name.replace(".", "_").isidentifier() else name for name in listed(names))
    return sorted({*named})


def _patterns(values: Any) -> str:
    """Ranks or scales of single modules, in brackets."""
    if not isinstance(values, dict) or not values:
        return ""
    if len(values) > 4:
        return f" (others for {count(len(values), 'patterns')})"
    return f" ({', '.join(f'{name} {value}' for name, value in values.items())})"
