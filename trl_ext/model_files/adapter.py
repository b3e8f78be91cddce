"""Read the folder of an adapter, as PEFT saves it."""

import json
from pathlib import Path
from typing import Any

from trl_ext import demo

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def is_in(folder: Path) -> bool:
    return (folder / CONFIG).exists()


def config(folder: Path) -> dict[str, Any]:
    """The content of the adapter's configuration; empty if it is missing or damaged, which loading it will report."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def base_of(folder: Path) -> str | None:
    """Path or Hub name of the model under the adapter; `None` if there is no adapter or it names no base."""
    return config(folder).get("base_model_name_or_path")


def revision_of(folder: Path) -> str | None:
    """Commit, branch or tag of that model on the Hub; `None` if the adapter does not name one."""
    return config(folder).get("revision")


def base_name(name: str | None) -> str | None:
    """Path or Hub name of the base model under a recipe's `model_name_or_path`; `None` if that is not set."""
    if name is None or name == demo.EMBEDDED:
        return name and str(demo.MODEL)
    return base_of(Path(name).expanduser()) or name
