"""Check a model or an adapter in a local folder: configuration, weights and tokenizer.

The weights are needed by a run, not by a plan.
"""

import json
from pathlib import Path
from typing import Any

from trl_ext.model_files import adapter, fit, sizes, weights
from trl_ext.support.counts import count

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def problem(name: str) -> str | None:
    """An error message about the folder `name`; `None` if it is complete, or if `name` is not a folder (but a Hub name, say)."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    return _adapter(folder) if adapter.is_in(folder) else _model(folder)


def adapter_problem(folder: Path) -> str | None:
    """An error message about the configuration of an adapter, or about the folder of its base; `None` if they are complete."""
    content = _json(folder / adapter.CONFIG)
    if isinstance(content, str):
        return content
    base = content.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        return (
            f"The adapter in {folder} does not name its base model. Set `base_model_name_or_path` in its adapter_config.json "
            "to the model it was trained on."
        )
    if base.startswith((".", "/", "~")) and not Path(base).expanduser().is_dir():
        return (
            f"The adapter in {folder} was trained on {base}, but that folder does not exist. Restore the model, or correct "
            "`base_model_name_or_path` in its adapter_config.json."
        )
    if not isinstance(content.get("peft_type"), str):
        return f"The adapter_config.json in {folder} has no `peft_type`, so PEFT cannot load it. Copy or save the adapter again."
    return None


def _adapter(folder: Path) -> str | None:
    if why := adapter_problem(folder):
        return why
    files = [path for name in (adapter.WEIGHTS, adapter.OLDER_WEIGHTS) if (path := folder / name).exists()]
    if not files:
        return (
            f"{folder} holds an adapter_config.json but no adapter_model.safetensors. Copy or train the adapter again."
        )
    if why := _unreadable(files):
        return why
    base = adapter.local_base(folder)
    return (problem(str(base)) or fit.problem(folder, base)) if base is not None and base != folder else None


def _model(folder: Path) -> str | None:
    content = _json(folder / "config.json")
    if isinstance(content, str):
        return content
    if not content.get("model_type") and not content.get("auto_map"):
        return (
            f"{folder / 'config.json'} has no `model_type`, so it is not a transformers model. Choose another folder."
        )
    if why := sizes.problem(folder / "config.json", content):
        return why
    settings, text = content, content.get("text_config")
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = _json(index)
        if isinstance(content, str):
            return content
        shards = {str(shard) for shard in dict(content.get("weight_map") or {}).values()}
        if absent := sorted(shard for shard in shards if not (folder / shard).exists()):
            return f"{folder} lacks {len(absent)} of {count(len(shards), 'weight files')}, for instance {absent[0]}. Copy them again."
    elif not files:
        return f"{folder} holds a config.json but no weights (model.safetensors). Copy or save the model again."
    if not any((folder / name).exists() for name in TOKENIZERS):
        return f"{folder} holds a model but no tokenizer (tokenizer.json). Save the tokenizer there too."
    return _unreadable(files) or sizes.missing_layers(folder, (text or settings).get("num_hidden_layers"))


def _unreadable(files: list[Path]) -> str | None:
    for path in sorted(files):
        if path.suffix == ".safetensors" and (why := weights.why_unreadable(path)):
            return f"{path} {why}."
    return None


def _json(path: Path) -> dict[str, Any] | str:
    """The mapping in a file, or an error message."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{path.parent} holds no {path.name}. Give the folder a model was saved in."
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({error}). Copy, download or save it again."
    return content if isinstance(content, dict) else f"{path} is not a JSON object. Copy, download or save it again."
