"""Read the mixtures of the alignment handbook.

Its `weight`, and the numbers of its older `dataset_mixer`, are the share of that dataset's rows which is used. TRL's `fraction` is
the share of the mixture that a dataset makes up: read as such, they would throw rows of the other datasets away.
"""

from typing import Any

from trl_ext.foreign.common import UNSET
from trl_ext.foreign.dialect import Values
from trl_ext.foreign.meaning import Meaning, written

_NO_LIST = Meaning(
    advice=f"write `dataset_name`, or {written({'datasets': [{'path': 'NAME', 'split': 'train'}]})}",
    changes="no dataset is named",
)
_IN_MIXER = Meaning(reason="it is part of what is written for `dataset_mixer`")
_NAMES = {"id": "path", "config": "name"}


def _mixture(value: Any, values: Values) -> list[Meaning] | Meaning:
    """`dataset_mixture`: a list of datasets with `id`, `config`, `split`, `columns` and `weight`."""
    entries = value.get("datasets") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return _mixer(value, values)
    here = [
        {_NAMES.get(key, key): one for key, one in entry.items() if key != "weight" and one is not None}
        | _share(entry.get("weight"))
        for entry in entries
    ]
    is_cut = any("share" in entry for entry in here)
    found = [
        Meaning(
            {"datasets": here},
            "`weight` is the share of that dataset's rows, which is called `share` here" if is_cut else "",
            "these are its first rows, not random ones" if is_cut else "",
        )
    ]
    if (size := value.get("test_split_size")) is not None:
        found.append(Meaning({"test_split_size": size}, part="dataset_mixture.test_split_size"))
    if value.get("seed") is not None:
        found.append(
            Meaning(
                reason="`seed` orders the rows and draws the test split",
                part="dataset_mixture.seed",
                changes="the order differs",
            )
        )
    return found


def _mixer(value: Any, values: Values) -> list[Meaning] | Meaning:
    """`dataset_mixer`: {name: share}, with the splits of `dataset_splits` and the configurations of `dataset_configs`.

    One dataset keeps its test split. A mixture of several reads one split of each.
    """
    if not isinstance(value, dict) or not value:
        return _NO_LIST
    (train, tests), configs = _splits(values), values.get("dataset_configs")
    configs = configs if isinstance(configs, list) and len(configs) == len(value) else [None] * len(value)
    if percent := _percent(values):
        config = {"dataset_config": configs[0]} if configs[0] else {}
        cut = "" if percent == 100 else f"[:{percent}%]"
        splits = {"dataset_train_split": f"{train[0]}{cut}"} if cut or train[0] != "train" else {}
        splits |= {"dataset_test_split": tests[0]} if tests and tests[0] != "test" else {}
        return Meaning({"dataset_name": next(iter(value)), **config, **splits})
    entries = [
        {"path": name} | ({"name": config} if config else {}) | {"split": split} | _share(share)
        for (name, share), config in zip(value.items(), configs, strict=True)
        for split in train
    ]
    return Meaning({"datasets": entries}, "a number of `dataset_mixer` is the share of that dataset's rows")


def _strategy(value: Any, values: Values) -> Meaning:
    """`eval_strategy`: a `dataset_mixer` of several has test splits, which a mixture here has not."""
    mixer = values.get("dataset_mixer")
    if value in (None, "no", False) or not isinstance(mixer, dict) or not mixer or _percent(values):
        return Meaning({"eval_strategy": value}) if value is not None else UNSET
    return Meaning(
        {"eval_strategy": "no"},
        "a mixture reads one split of each dataset. To evaluate, write `eval_size`, which holds training rows out",
        "the test splits of the datasets are not read",
    )


def _percent(values: Values) -> int:
    """The share of a single dataset that is trained on, as whole per cent; 0 for a mixture, and for any other share."""
    mixer = values.get("dataset_mixer")
    if not isinstance(mixer, dict) or len(mixer) != 1 or len(_splits(values)[0]) != 1:
        return 0
    (share,) = mixer.values()
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 < share <= 1:
        return 0
    percent = round(100 * share)
    return percent if abs(percent - 100 * share) < 1e-9 else 0


def _split_names(value: Any, values: Values) -> Meaning:
    """`dataset_splits`: names with "train" or "test" in them."""
    if isinstance(values.get("dataset_mixer"), dict):
        return _IN_MIXER
    train, tests = _splits(values | {"dataset_splits": value})
    return Meaning({"dataset_train_split": train[0]} | ({"dataset_test_split": tests[0]} if tests else {}))


def _share(weight: Any) -> dict[str, Any]:
    return {} if weight is None or weight == 1 else {"share": weight}


def _splits(values: Values) -> tuple[list[str], list[str]]:
    """The training splits, of which there is at least one, and the test splits of `dataset_splits`."""
    given = values.get("dataset_splits")
    names = [str(name) for name in (given if isinstance(given, list) else [given]) if name is not None]
    names = names or ["train", "test"]
    train = [name for name in names if "train" in name]
    return (train, [name for name in names if name not in train]) if train else (names[:1], names[1:])


MEANS_OF_DATA = {
    "dataset_mixer": _mixer,
    "dataset_mixture": _mixture,
    "dataset_splits": _split_names,
    "dataset_configs": _IN_MIXER,
    "eval_strategy": _strategy,
    "evaluation_strategy": _strategy,
}
