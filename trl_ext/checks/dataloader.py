"""Rules about data loaders and accelerate's settings of them, which fail when the first batch is fetched."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_ext.checks import installed_source
from trl_ext.checks.rule import problem
from trl_ext.checks.settings import Settings
from trl_ext.support import messages
from trl_ext.support.paths import absent

NEEDS_WORKERS = {
    "dataloader_prefetch_factor": "it is the number of batches that each worker loads ahead",
    "dataloader_persistent_workers": "it keeps workers between epochs",
    "dataloader_multiprocessing_context": "it says how workers are started",
}


@problem(*NEEDS_WORKERS, "dataloader_num_workers")
def workers(s: Settings) -> Iterator[str]:
    """torch refuses them without workers."""
    for key, purpose in NEEDS_WORKERS.items():
        if s[key] and not s["dataloader_num_workers"]:
            yield (
                f"{s.where(key)} is {messages.shown(s[key])}, and there are no workers: {purpose}. Set `dataloader_num_workers: 2`, for "
                "instance, or remove it."
            )


@problem("accelerator_config")
def accelerator_config(s: Settings) -> Iterator[str]:
    given, where = s["accelerator_config"], s.where("accelerator_config")
    if isinstance(given, str) and not given.startswith("{"):
        path = Path(given).expanduser()
        if not path.is_file():
            yield f"{where} is {given}, and {absent(path, 'file')}"
            return
    values = _values(given)
    if values is None:
        yield f"{where} is {messages.shown(given)}: write a mapping, for instance `accelerator_config: {{even_batches: true}}`."
        return
    source = installed_source.parse("transformers", "trainer_pt_utils.py")
    known = tuple(installed_source.fields(installed_source.find(source, "AcceleratorConfig")))
    for key in values:
        if key not in known:
            yield (
                f"{where} has `{messages.shown_text(str(key))}`, which is not a setting of accelerate's data loaders: "
                f"{messages.one_of(str(key), known)}"
            )


@problem("accelerator_config", applies_to=lambda method: method.cuts_rows or method.samples_completions)
def dispatched_batches(s: Settings) -> Iterator[str]:
    if (_values(s["accelerator_config"]) or {}).get("dispatch_batches"):
        yield (
            f"{s.where('accelerator_config')} sets `dispatch_batches`, which sends tensors from the first process to the others. "
            "Batches here are examples of unequal length, not tensors. Remove `dispatch_batches`."
        )


@problem("accelerator_config", "per_device_train_batch_size", "per_device_eval_batch_size")
def split_batches(s: Settings) -> Iterator[str]:
    if not (_values(s["accelerator_config"]) or {}).get("split_batches"):
        return
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        if isinstance(s[key], int) and s[key] % processes:
            yield (
                f"{s.where('accelerator_config')} sets `split_batches`, which splits each batch among {processes} processes, and "
                f"`{key}` is {s[key]}: give a multiple of {processes}."
            )


def _values(given: Any) -> dict[str, Any] | None:
    """The settings as a mapping; `None` if they are none."""
    if given is None:
        return {}
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return dataclasses.asdict(given)
    if isinstance(given, str):
        try:
            text = given if given.startswith("{") else Path(given).expanduser().read_text(encoding="utf-8")
            given = json.loads(text)
        except (OSError, ValueError):
            return None
    return given if isinstance(given, dict) else None
