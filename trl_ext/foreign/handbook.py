"""Give the settings of the alignment handbook that are not TRL's."""

from typing import Any

from trl_ext.foreign.dialect import Dialect, Values, has
from trl_ext.foreign.meaning import Meaning, written

_NO_LIST = Meaning(advice=f"write `dataset_name`, or {written({'datasets': [{'path': 'NAME', 'split': 'train'}]})}")


def _mixture(value: Any, values: Values) -> Meaning:
    """The alignment handbook's {name: share}, or its list with `id`s, as `dataset_name` or `datasets`."""
    if isinstance(value, dict) and isinstance(value.get("datasets"), list):
        renamed = {"id": "path", "config": "name", "weight": "fraction"}
        entries = [{renamed.get(k, k): v for k, v in dict(entry).items()} for entry in value["datasets"]]
    elif isinstance(value, dict) and len(value) == 1:
        return Meaning({"dataset_name": next(iter(value))})
    elif isinstance(value, dict):
        entries = [{"path": name, "fraction": share} for name, share in value.items()]
    else:
        return _NO_LIST
    return Meaning({"datasets": entries})


def _splits(value: Any, values: Values) -> Meaning:
    splits = value if isinstance(value, list) else [value]
    keys = ("dataset_train_split", "dataset_test_split")
    return Meaning(dict(zip(keys, splits, strict=False)))


HANDBOOK = Dialect(
    "the alignment handbook",
    {
        "dataset_mixer": _mixture,
        "dataset_mixture": _mixture,
        "dataset_splits": _splits,
        "preprocessing_num_workers": "dataset_num_proc",
        "auto_insert_empty_system_msg": Meaning(reason="the chat template decides about system messages"),
    },
    has("dataset_mixer", "dataset_mixture"),
)
