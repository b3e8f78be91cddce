"""Check that the data of tasks can be loaded, before the libraries retry for minutes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from lm_eval.tasks._index import Entry

from trl_ext.data.hub import require_hub_dataset
from trl_ext.support.errors import UserError


def require_data(tasks: Iterable[Entry]) -> None:
    """Refuse tasks whose dataset is neither in the cache nor on a Hub that can be reached; one request per dataset.

    Raises:
        UserError: Names the task and its dataset.
    """
    asked = set()
    for task in tasks:
        name = (task.cfg or {}).get("dataset_path")
        if not isinstance(name, str) or name in asked or _is_local(name) or "custom_dataset" in task.cfg:
            continue
        asked.add(name)
        revision = (task.cfg.get("dataset_kwargs") or {}).get("revision")
        try:
            require_hub_dataset(name, revision, is_path=False)
        except UserError as error:
            raise UserError(f"The data of the task {task.name} cannot be loaded. {error}") from error


def _is_local(name: str) -> bool:
    """Whether it is a path, or names a kind of file whose paths are in `dataset_kwargs`."""
    return name in _PACKAGED_DATASETS_MODULES or Path(name).exists() or name.startswith((".", "/"))
