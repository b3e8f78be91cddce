"""Notes on settings that the rest of the recipe leaves without effect."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from trl_ext.demo import EMBEDDED
from trl_ext.model_files import adapter as adapter_folder
from trl_ext.recipe.data_checks import stored_splits
from trl_ext.recipe.packages import BASE, LOW_RANK
from trl_ext.recipe.settings import Settings
from trl_ext.support import messages

WITHOUT_ARGUMENTS = re.compile(
    r"adamw_torch(_fused|_xla|_npu_fused)?|adafactor|(paged_)?(adamw|lion)_(8bit|32bit)|adamw_bnb_8bit|(ada)?lomo"
)
"""Optimizers for which transformers does not look at `optim_args`."""


def notes(s: Settings, kind: str) -> Iterator[str]:
    """Of a recipe of one kind of training, a key of `schema.CONFIGS`."""
    if kind in ("paired", "unpaired"):
        yield from padding(s)
    yield from optimizer(s)
    yield from model_revision(s)
    yield from data(s)


def padding(s: Settings) -> Iterator[str]:
    """What only padded batches read, where rows are packed."""
    if s["packing"] is False or s["truncation_mode"] == "keep_end" or _soft_caps(str(s["model_name_or_path"] or "")):
        return
    inside = s["model_init_kwargs"] if isinstance(s["model_init_kwargs"], dict) else {}
    given = {s.where("attn_implementation"): s["attn_implementation"]}
    if "attn_implementation" in inside:
        given = {f"`attn_implementation` in {s.where('model_init_kwargs')}": inside["attn_implementation"]}
    for where, value in given.items():
        if value not in (None, "sdpa"):
            yield (
                f"{where} is {messages.shown_text(str(value))}, and packed rows use attention kernels of their own: it acts on padded rows only, with "
                "`packing: false` or a model that cannot be packed."
            )
    if s["pad_to_multiple_of"] not in (None, "auto", "none", "null", 1):
        yield (
            f"{s.where('pad_to_multiple_of')} is {s['pad_to_multiple_of']}, and packed rows are not padded: it acts with "
            "`packing: false` or a model that cannot be packed."
        )


def optimizer(s: Settings) -> Iterator[str]:
    name = str(s["optim"] or BASE)
    if s["optim_target_modules"] and not LOW_RANK.match(name):
        yield f"{s.where('optim_target_modules')} has no effect: optimizers of galore and apollo read it, not {s['optim'] or 'AdamW'}."
    if s["optim_args"] and WITHOUT_ARGUMENTS.fullmatch(name):
        yield f"{s.where('optim_args')} has no effect: {s['optim'] or 'AdamW'} reads none; its settings are `adam_beta1` and the like."


def model_revision(s: Settings) -> Iterator[str]:
    """Of an adapter in a folder, it is that of its base on the Hub."""
    name = str(s["model_name_or_path"] or "")
    folder = Path(name).expanduser()
    if adapter_folder.is_in(folder):
        folder = Path(adapter_folder.base_of(folder) or "").expanduser()
    if s["model_revision"] not in (None, "main") and name and (name == EMBEDDED or (folder.is_dir() and folder.name)):
        where = "comes with trl-ext" if name == EMBEDDED else f"is read from the folder {folder}"
        yield f"{s.where('model_revision')} has no effect: the model {where}, and only the Hub has revisions."


def data(s: Settings) -> Iterator[str]:
    """What only data on the Hub, one dataset or several have."""
    if s["datasets"]:
        for key in ("dataset_config", "dataset_revision", "dataset_streaming"):
            if s[key]:
                yield f"{s.where(key)} has no effect: `datasets` is used, whose entries say what is read of them."
        return
    if s["streaming"]:
        yield f"{s.where('streaming')} has no effect without `datasets`: `dataset_streaming` is the setting of one dataset."
    name = s["dataset_name"]
    path = Path(name).expanduser() if isinstance(name, str) and name else None
    if path is None or not (name == EMBEDDED or path.exists()):
        return
    if s["dataset_revision"]:
        yield f"{s.where('dataset_revision')} has no effect: {name} is not read from the Hub, and only the Hub has revisions."
    if s["dataset_config"] and not _has_configs(path):
        yield f"{s.where('dataset_config')} has no effect: {name} has no configurations to choose from."


def _has_configs(path: Path) -> bool:
    """Whether a folder says of files that they make up a configuration."""
    if stored_splits(path) is not None:
        return False
    texts = [path / "README.md", path / ".huggingface.yaml"]
    return any("config_name" in text.read_text(encoding="utf-8", errors="replace") for text in texts if text.is_file())


def _soft_caps(model: str) -> bool:
    """Whether a model, going by its name or its folder, is one whose scores are soft-capped and rows not packed."""
    if re.search(r"gemma-?2(?!\d)", model.lower()):
        return True
    try:
        text = Path(model).expanduser().joinpath("config.json").read_text(encoding="utf-8")
        return bool(json.loads(text).get("attn_logit_softcapping"))
    except (OSError, ValueError, AttributeError):
        return False
