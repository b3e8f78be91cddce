"""Give axolotl's keys of the data: datasets with their types, evaluation data, lengths and packing."""

from collections.abc import Iterator
from types import NoneType
from typing import Any

from trl_ext.foreign.axolotl import formats
from trl_ext.foreign.axolotl.entries import beside_columns
from trl_ext.foreign.axolotl.kind import LOSSES, REWARD, SUPERVISED, kind, renamed, unless_off
from trl_ext.foreign.common import DEFAULT, UNSET
from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.meaning import Meaning
from trl_ext.support.messages import shown, shown_text

BUILDERS = ("json", "csv", "parquet", "arrow", "text")
LENGTH = 512
"""The length that axolotl limits rows to, unless the file says it."""


def _datasets(given: Any, values: Values) -> tuple[Meaning, ...]:
    odd = [
        entry
        for entry in (given if isinstance(given, list) else [given])
        if not isinstance(entry, (dict, str, NoneType))
    ]
    if odd:
        return (Meaning(reason=f"{shown(odd[0])} names no dataset", advice="write `- path: NAME`", prevents=True),)
    entries = _entries(given)
    if not entries:
        return (UNSET,)
    found = [formats.of_entry(entry, dict(values), kind(values)) for entry in entries]
    columns = {"dataset_columns": found[0].columns} if found[0].columns else {}
    others = [Meaning({name: value}, formats.WHY[name]) for name, value in found[0].settings.items()]
    return (Meaning(_source(entries) | columns), *others, *_about_entries(entries, found))


def _about_entries(entries: list[dict[str, Any]], found: list[formats.Format]) -> Iterator[Meaning]:
    """What changes by the entries, one by one."""
    for number, (entry, read) in enumerate(zip(entries, found, strict=True)):
        changes = read.changes
        if read.columns != found[0].columns:
            changes = "`dataset_columns` names the columns of the first dataset, and this one has others"
        if read.reason or changes:
            yield Meaning(reason=read.reason, changes=changes, advice=read.advice, part=f"datasets[{number}].type")
        yield from beside_columns(entry, f"datasets[{number}]", is_mixture=len(entries) > 1)


def _entries(given: Any) -> list[dict[str, Any]]:
    listed = given if isinstance(given, list) else [given]
    return [{"path": entry} if isinstance(entry, str) else entry for entry in listed if isinstance(entry, (dict, str))]


def _source(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Where the rows are: one dataset, or several that are put together."""
    if len(entries) == 1 and (one := _single(entries[0])) is not None:
        return one
    return {"datasets": [part for entry in entries for part in _parts(entry)]}


def _single(entry: dict[str, Any]) -> dict[str, Any] | None:
    """One dataset as settings; `None` if it needs an entry of a mixture."""
    path, files = entry.get("path"), _files(entry)
    if files and not _is_local(path):
        return None
    if len(files) > 1:
        return None
    found = {"dataset_name": files[0] if files else path}
    if entry.get("name"):
        found["dataset_config"] = entry["name"]
    if entry.get("split") not in (None, "train"):
        found["dataset_train_split"] = entry["split"]
    if entry.get("revision"):
        found["dataset_revision"] = entry["revision"]
    return found


def _parts(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a mixture for one dataset. A file of its own is one."""
    path, files = entry.get("path"), _files(entry)
    rest = {key: entry[key] for key in ("name", "split") if entry.get(key)}
    if files and _is_local(path):
        return [{"path": file} | rest for file in files]
    return [{"path": path} | rest | ({"data_files": entry["data_files"]} if files else {})]


def _files(entry: dict[str, Any]) -> list[str]:
    files = entry.get("data_files")
    return [str(file) for file in (files if isinstance(files, list) else [files])] if files else []


def _is_local(path: Any) -> bool:
    """Whether `data_files` are files of this computer: the path is a folder here, or names a kind of file."""
    return path is None or str(path) in BUILDERS or str(path).startswith((".", "/", "~"))


def _pretraining(given: Any, values: Values) -> tuple[Meaning, ...] | Meaning:
    entries = _entries(given)
    if not entries:
        return UNSET
    entry, *others = entries
    column = entry.get("text_column") or "text"
    columns = {"dataset_columns": {"text": column}} if column != "text" else {}
    found = [
        Meaning(
            _source([entry]) | columns | {"dataset_streaming": True}, "axolotl streams it, and trains on whole texts"
        )
    ]
    if others:
        found.append(Meaning(reason="axolotl reads the first entry alone", part="pretraining_dataset"))
    if entry.get("skip"):
        skipped = f"the first {entry['skip']} rows are trained on too"
        found.append(
            Meaning(reason="rows of a stream cannot be skipped", changes=skipped, part="pretraining_dataset[0].skip")
        )
    return tuple(found)


def _test_datasets(given: Any, values: Values) -> Meaning:
    """Another split of the training data is its test split here. Other data is read by `trl-ext eval`."""
    tests, trained = _entries(given), _entries(values.get("datasets"))
    if not tests:
        return UNSET
    same = len(tests) == len(trained) == 1 and all(
        tests[0].get(key) == trained[0].get(key) for key in ("path", "name", "data_files")
    )
    if same and tests[0].get("split") not in (None, trained[0].get("split") or "train"):
        return Meaning({"dataset_test_split": tests[0]["split"]})
    return Meaning(
        {"eval_strategy": "no"},
        "a run evaluates on rows or on a split of its own data",
        "there are no evaluations during training",
        advice=f"evaluate on other data after the run: `trl-ext eval RUN --dataset {shown_text(str(tests[0].get('path')))}`",
    )


def _held_out(value: Any, values: Values) -> Meaning:
    if not value:
        return UNSET if value is None else DEFAULT
    return Meaning({"eval_size": value})


def _length(value: Any, values: Values) -> Meaning:
    value = LENGTH if value is None else value
    strategy = values.get("excess_length_strategy") or "drop"
    if (
        strategy == "truncate"
        or kind(values) == REWARD
        or (values.get("sample_packing") and kind(values) == SUPERVISED)
    ):
        return Meaning({"max_length": value})
    done = "drops longer rows" if strategy == "drop" else "stops at a longer row"
    return Meaning({"max_length": value}, f"axolotl {done}", "here they are cut, and `trl-ext data` counts them")


def _packing(on: Any, values: Values) -> Meaning:
    if on is None:
        return UNSET
    if kind(values) in LOSSES:
        return Meaning(
            reason="it is about demonstrations. Rows of pairs are packed in any case, which changes no result"
        )
    if kind(values) == REWARD:
        return Meaning(reason="pairs of a reward model are not packed")
    return Meaning({"packing": bool(on)}) if on else DEFAULT


def _eval_packing(on: Any, values: Values) -> Meaning:
    if on is None or kind(values) != SUPERVISED:
        return UNSET if on is None else Meaning(reason="it is about demonstrations")
    return Meaning({"eval_packing": bool(on)}) if values.get("sample_packing") else DEFAULT


def _train_on_inputs(on: Any, values: Values) -> Meaning:
    if kind(values) != SUPERVISED:
        return Meaning(reason="losses on preferences never train on the prompt")
    return Meaning(reason="`completion_only_loss` and `assistant_only_loss` say which tokens are trained on")


def defaults(values: Values) -> dict[str, Any]:
    """Axolotl limits rows to 512 tokens."""
    return {} if values.get("sequence_len") is not None else {"sequence_len": LENGTH}


_CACHE = Meaning(reason="tokenised data is cached without a setting")
_SHUFFLE = Meaning(reason="examples are drawn in a random order that `seed` determines, as in axolotl")

MEANS: dict[str, str | Meaning | Reader] = {
    "datasets": _datasets,
    "pretraining_dataset": unless_off(_pretraining),
    "test_datasets": unless_off(_test_datasets),
    "val_set_size": _held_out,
    "sequence_len": _length,
    "eval_sequence_len": unless_off(Meaning(reason="`max_length` limits the rows of evaluations too")),
    "excess_length_strategy": Meaning(reason="rows that are longer than `max_length` are cut. `trl-ext data` counts them"),
    "min_sample_len": unless_off(Meaning(reason="rows have no minimum length", changes="short rows are trained on too")),
    "max_prompt_len": Meaning(reason="`max_length` limits prompt and completion together"),
    "max_packed_sequence_len": unless_off(Meaning(reason="axolotl no longer has it. `max_length` is the length of a packed row")),
    "sample_packing": _packing,
    "eval_sample_packing": _eval_packing,
    "train_on_inputs": _train_on_inputs,
    "dataset_processes": renamed("dataset_num_proc"),
    "streaming": unless_off(lambda on, values: Meaning({"dataset_streaming": True})),
    "dataset_exact_deduplication": unless_off(
        Meaning(reason="identical rows are counted and kept", changes="rows that occur twice are trained on twice")
    ),
    "dataset_shard_num": unless_off(
        Meaning(
            reason="rows of a shard are not chosen",
            changes="all rows are trained on",
            advice="to train on fewer, write `max_train_samples: 1000`, for instance",
        )
    ),
    "dataset_shard_idx": Meaning(reason="only `dataset_shard_num` reads it"),
    "shuffle_merged_datasets": _SHUFFLE,
    "shuffle_before_merging_datasets": _SHUFFLE,
    "remove_unused_columns": Meaning(reason="columns that are not read are left out"),
    "dataloader_num_workers": renamed("dataloader_num_workers"),
    "rope_scaling": unless_off(Meaning(reason="axolotl no longer has it either", advice="write it into the model's config.json")),
    "use_pose": unless_off(Meaning(reason="PoSE is not available", changes="rows keep their positions")),
    "pretrain_multipack_attn": Meaning(reason="packed texts never see each other"),
    **dict.fromkeys(
        ("pose_split_on_token_ids", "pose_max_context_len", "pose_num_chunks"), Meaning(reason="only `use_pose` reads it")
    ),
    **dict.fromkeys(
        (
            "dataset_prepared_path", "skip_prepare_dataset", "num_dataset_shards_to_save", "push_dataset_to_hub",
            "dataset_keep_in_memory", "is_preprocess", "preprocess_iterable", "total_num_tokens", "total_supervised_tokens",
        ),
        _CACHE,
    ),
    **dict.fromkeys(
        (
            "sample_packing_group_size", "sample_packing_bin_size", "sample_packing_sequentially",
            "sample_packing_mp_start_method", "sample_packing_eff_est", "multipack_real_batches",
            "pretrain_multipack_buffer_size", "streaming_multipack_buffer_size", "pretraining_sample_concatenation",
        ),
        Meaning(reason="TRL packs without it"),
    ),
}  # fmt: skip
"""Every key of this part."""
